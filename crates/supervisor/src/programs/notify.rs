//! What a copy says to its `NOTIFY_SOCKET` (sd_notify(3)).
