//! Programs whose connections the supervisor accepts.
