//! Query and headers of a request, parsed once. What is not understood is refused, not ignored: a misspelt
//! `dry_run` must not become a real reload.

use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use handover_api::parse_duration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use super::answer::Answer;
use crate::handle::{GUARD_TIME, Guarding, Terms, WhichBinary};

/// How long an answer is waited for if the request does not say: as long as operations may take.
const DEFAULT_WAIT: Duration = Duration::from_secs(60 * 60);
/// The longest comment.
pub(super) const MAX_COMMENT_BYTES: usize = 1_000;
/// The longest Idempotency-Key.
const MAX_KEY_BYTES: usize = 128;

/// The query of a request that changes something.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeQuery {
    /// How long to wait for the outcome, e.g. `30s`; then 202 with the operation as it is. It goes on.
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "duration")]
    pub(super) timeout: Option<Duration>,
    /// Do not wait: 202 with the operation's place.
    #[serde(default, deserialize_with = "flag")]
    pub(super) detach: bool,
    /// Why, in a few words; kept in the journal.
    pub(super) comment: Option<String>,
    /// Only check (`reload`, `restore`, `upgrade`).
    #[serde(default, deserialize_with = "flag")]
    pub(super) dry_run: bool,
    /// Read only certificates and their keys anew (`reload`).
    #[serde(default, deserialize_with = "flag")]
    pub(super) certs: bool,
    /// The generation to go back to (`rollback`); the one that served before this one if not given.
    pub(super) to: Option<u64>,
    /// The binary to upgrade to: an absolute path (`upgrade`); the one that is installed where the server was started
    /// from if not given. For `rollback`: `true` goes back to the binary that served before the last upgrade.
    #[param(value_type = Option<String>, example = "/usr/local/bin/handover")]
    #[serde(default, deserialize_with = "binary")]
    pub(super) binary: Option<BinaryAsked>,
    /// The SHA-256 digest that the binary must have, as `sha256sum` prints it (`upgrade`).
    #[serde(default, deserialize_with = "sha256")]
    pub(super) sha256: Option<String>,
    /// Upgrade to the binary that served before the last upgrade, which is kept (`upgrade`).
    #[serde(default, deserialize_with = "flag")]
    pub(super) previous: bool,
    /// Go back after this time, e.g. `10m`, unless a confirm comes (`reload`, `rollback`, `restore`, `upgrade`).
    #[param(value_type = Option<String>, example = "10m")]
    #[serde(default, deserialize_with = "positive_duration")]
    pub(super) confirm_within: Option<Duration>,
    /// Watch the change at first and go back if it fares worse: `true`, `false`, or for how long, e.g. `30s`; as the
    /// configuration says if not given (`reload`, `rollback`, `restore`, `upgrade`).
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "guarding")]
    pub(super) guard: Guarding,
    /// Cut what is in flight instead of draining (`stop`).
    #[serde(default, deserialize_with = "flag")]
    pub(super) now: bool,
    /// How long connections may take to end, e.g. `30s` (`drain`, `stop`).
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "duration")]
    pub(super) limit: Option<Duration>,
    /// What is paused and goes on: a program, service, route or listener (`resume`); everything if not given.
    pub(super) name: Option<String>,
}

/// The query of a request about a program, or about the traffic to something.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProgramQuery {
    /// How long to wait for the outcome, e.g. `30s`; then 202 with the operation as it is. It goes on.
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "duration")]
    pub(super) timeout: Option<Duration>,
    /// Do not wait: 202 with the operation's place.
    #[serde(default, deserialize_with = "flag")]
    pub(super) detach: bool,
    /// Why, in a few words; kept in the journal.
    pub(super) comment: Option<String>,
    /// The slot to run (`deploy`); the idle one if not given.
    pub(super) slot: Option<String>,
    /// A directory to run it in, instead of a slot: an absolute path (`deploy`).
    #[param(value_type = Option<String>, example = "/srv/releases/42")]
    #[serde(default, deserialize_with = "absolute")]
    pub(super) directory: Option<PathBuf>,
    /// Go back after this time, e.g. `10m`, unless a confirm comes (`deploy`).
    #[param(value_type = Option<String>, example = "10m")]
    #[serde(default, deserialize_with = "positive_duration")]
    pub(super) confirm_within: Option<Duration>,
    /// Watch it at first and go back if it ends or fails its check: `true` (10 s), or for how long, e.g. `30s` (`deploy`).
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "guarding")]
    pub(super) guard: Guarding,
    /// How many copies are replaced at a time, in place of the configured number (`restart`).
    #[param(minimum = 1)]
    pub(super) batch: Option<u32>,
    /// How many copies may be missing before it stops, in place of the configured number (`restart`).
    pub(super) max_unhealthy: Option<u32>,
    /// What is paused: a program, service, route or listener; `route:api` and the like say which is meant (`pause`).
    pub(super) name: Option<String>,
    /// For how long at most, e.g. `30s` (`pause`).
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, rename = "for", deserialize_with = "positive_duration")]
    pub(super) time: Option<Duration>,
    /// How many requests are held at most; what comes then is answered with 503 (`pause`).
    pub(super) max_held: Option<u32>,
    /// How long to wait for what is in flight, e.g. `30s` (`drain`). Nothing is cut.
    #[param(value_type = Option<String>, example = "30s")]
    #[serde(default, deserialize_with = "duration")]
    pub(super) limit: Option<Duration>,
}

/// Present without a value means yes.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" | "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(serde::de::Error::custom(format!("{text:?} is neither true nor false"))),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A time in which something is to happen cannot be nothing.
fn positive_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match duration(deserializer)? {
        Some(Duration::ZERO) => Err(serde::de::Error::custom("it must be longer than nothing")),
        time => Ok(time),
    }
}

/// `guard`, `guard=true`, `guard=no`, `guard=30s`.
fn guarding<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Guarding, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" | "1" | "true" | "yes" => Ok(Guarding::Asked { watch: None }),
        "0" | "false" | "no" => Ok(Guarding::No),
        time => match parse_duration(time) {
            Ok(Duration::ZERO) => Err(serde::de::Error::custom("a guard must watch longer than nothing")),
            Ok(time) => Ok(Guarding::Asked { watch: Some(time) }),
            Err(_) => Err(serde::de::Error::custom(format!(
                "{time:?} is neither true nor false, nor for how long to watch, such as 30s"
            ))),
        },
    }
}

/// What `binary` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BinaryAsked {
    /// `binary=/usr/bin/handover`.
    At(PathBuf),
    /// `binary`, `binary=true`.
    Yes,
    /// `binary=false`.
    No,
}

/// The longest path (`PATH_MAX`, limits.h).
const MAX_PATH_BYTES: usize = 4096;

/// A path, or present for yes: which of the two an endpoint takes is its own matter.
fn binary<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BinaryAsked>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(match text.as_str() {
        "" | "1" | "true" | "yes" => BinaryAsked::Yes,
        "0" | "false" | "no" => BinaryAsked::No,
        path if path.len() >= MAX_PATH_BYTES || path.contains('\0') => {
            return Err(serde::de::Error::custom("this is no path"));
        }
        path if path.starts_with('/') => BinaryAsked::At(PathBuf::from(path)),
        path => return Err(serde::de::Error::custom(format!("{path:?} is no absolute path"))),
    }))
}

/// An absolute path.
fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if !text.starts_with('/') || text.len() >= MAX_PATH_BYTES || text.contains('\0') {
        return Err(serde::de::Error::custom(format!("{text:?} is no absolute path")));
    }
    Ok(Some(PathBuf::from(text)))
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    handover_api::parse_sha256(&text).map(Some).map_err(serde::de::Error::custom)
}

impl ChangeQuery {
    /// Which binary an upgrade is to.
    pub(super) fn which_binary(&self) -> Result<WhichBinary, Answer> {
        match (&self.binary, self.previous) {
            (None, false) => Ok(WhichBinary::Default),
            (None, true) => Ok(WhichBinary::Previous),
            (Some(BinaryAsked::At(path)), false) => Ok(WhichBinary::Path(path.clone())),
            (Some(BinaryAsked::At(_)), true) => {
                Err(Answer::bad_request("binary names one, and previous another: ask for one of the two"))
            }
            (Some(BinaryAsked::Yes | BinaryAsked::No), _) => {
                Err(Answer::bad_request("binary must be an absolute path to upgrade to"))
            }
        }
    }

    /// Whether a rollback is to the binary that served before.
    pub(super) fn goes_back_to_binary(&self) -> Result<bool, Answer> {
        match &self.binary {
            None | Some(BinaryAsked::No) => Ok(false),
            Some(BinaryAsked::Yes) if self.to.is_some() => {
                Err(Answer::bad_request("a rollback is to a generation or to a binary, not to both"))
            }
            Some(BinaryAsked::Yes) => Ok(true),
            Some(BinaryAsked::At(_)) => Err(Answer::bad_request(
                "a rollback is to the binary that served before, and to no other: binary is true or false",
            )),
        }
    }

    /// Under which terms the change is made.
    pub(super) fn terms(&self) -> Terms {
        Terms { confirm_within: self.confirm_within, guard: self.guard }
    }
}

/// The paths of changes that make another generation or another binary serve.
const CHANGES_UNDER_TERMS: [&str; 4] = ["/v1/reload", "/v1/rollback", "/v1/restore", "/v1/upgrade"];

/// What a request to change something says about how it wants to be handled.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) query: ChangeQuery,
    /// `Idempotency-Key`.
    pub(super) id: Option<String>,
    /// `If-Match`: a generation.
    pub(super) if_match: Option<u64>,
    /// How long to wait; `None`: not at all.
    pub(super) wait: Option<Duration>,
}

impl<S: Send + Sync> FromRequestParts<S> for Change {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Answer> {
        let Strict(query) = Strict::<ChangeQuery>::from_request_parts(parts, state).await?;
        let path = parts.uri.path();
        let only_for = |given: bool, name: &str, paths: &[&str]| {
            if given && !paths.contains(&path) {
                return Err(Answer::bad_request(format!("{name} means nothing to {path}")));
            }
            Ok(())
        };
        only_for(query.dry_run, "dry_run", &["/v1/reload", "/v1/validate", "/v1/restore", "/v1/upgrade"])?;
        only_for(query.certs, "certs", &["/v1/reload"])?;
        only_for(query.to.is_some(), "to", &["/v1/rollback"])?;
        only_for(query.binary.is_some(), "binary", &["/v1/upgrade", "/v1/rollback"])?;
        only_for(query.sha256.is_some(), "sha256", &["/v1/upgrade"])?;
        only_for(query.previous, "previous", &["/v1/upgrade"])?;
        only_for(query.confirm_within.is_some(), "confirm_within", &CHANGES_UNDER_TERMS)?;
        only_for(query.guard != Guarding::default(), "guard", &CHANGES_UNDER_TERMS)?;
        if query.dry_run && (query.certs || query.terms() != Terms::default()) {
            return Err(Answer::bad_request(
                "dry_run checks everything and changes nothing: certs, confirm_within and guard mean nothing to it",
            ));
        }
        only_for(query.now, "now", &["/v1/stop"])?;
        only_for(query.limit.is_some(), "limit", &["/v1/drain", "/v1/stop"])?;
        only_for(query.name.is_some(), "name", &["/v1/resume"])?;
        Self::of(query, &parts.headers)
    }
}

impl Change {
    /// The query, and what the headers say.
    fn of(mut query: ChangeQuery, headers: &HeaderMap) -> Result<Self, Answer> {
        query.comment = query.comment.map(|comment| checked_comment(&comment)).transpose()?;
        let preference = Preference::of(headers);
        let detached = query.detach || preference.respond_async;
        let wait = query.timeout.or(preference.wait).unwrap_or(DEFAULT_WAIT);
        Ok(Self {
            id: idempotency_key(headers)?,
            if_match: if_match(headers)?,
            wait: (!detached).then_some(wait),
            query,
        })
    }
}

/// What a request about a program says.
#[derive(Debug)]
pub(super) struct ProgramChange {
    /// How it wants to be handled.
    pub(super) change: Change,
    /// What it is about.
    pub(super) own: ProgramQuery,
}

impl<S: Send + Sync> FromRequestParts<S> for ProgramChange {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Answer> {
        let Strict(own) = Strict::<ProgramQuery>::from_request_parts(parts, state).await?;
        let path = parts.uri.path();
        let verb = path.rsplit('/').next().unwrap_or_default();
        let only_for = |given: bool, name: &str, of: &str| {
            if given && verb != of {
                return Err(Answer::bad_request(format!("{name} means nothing to {path}")));
            }
            Ok(())
        };
        only_for(own.slot.is_some(), "slot", "deploy")?;
        only_for(own.directory.is_some(), "directory", "deploy")?;
        only_for(own.confirm_within.is_some(), "confirm_within", "deploy")?;
        only_for(own.guard != Guarding::default(), "guard", "deploy")?;
        only_for(own.batch.is_some(), "batch", "restart")?;
        only_for(own.max_unhealthy.is_some(), "max_unhealthy", "restart")?;
        only_for(own.name.is_some(), "name", "pause")?;
        only_for(own.time.is_some(), "for", "pause")?;
        only_for(own.max_held.is_some(), "max_held", "pause")?;
        only_for(own.limit.is_some(), "limit", "drain")?;
        if own.batch == Some(0) {
            return Err(Answer::bad_request("batch must be at least 1"));
        }
        let (timeout, detach, comment) = (own.timeout, own.detach, own.comment.clone());
        let query = ChangeQuery { timeout, detach, comment, ..ChangeQuery::default() };
        Ok(Self { change: Change::of(query, &parts.headers)?, own })
    }
}

impl ProgramQuery {
    /// How long a guard watches, if one does: only where it is asked for.
    pub(super) fn guard_time(&self) -> Option<Duration> {
        match self.guard {
            Guarding::Asked { watch } => Some(watch.unwrap_or(GUARD_TIME)),
            Guarding::Configured | Guarding::No => None,
        }
    }
}

/// A query of which every parameter must be known.
#[derive(Debug)]
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Strict<T> {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Answer> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Answer::bad_request(rejection.body_text())),
        }
    }
}

/// What a path names.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Named {
    /// Its name
    pub(super) name: String,
}

fn checked_comment(comment: &str) -> Result<String, Answer> {
    let comment = comment.trim();
    if comment.len() > MAX_COMMENT_BYTES {
        let length = comment.len();
        return Err(Answer::bad_request(format!(
            "the comment has {length} bytes, and may have {MAX_COMMENT_BYTES}"
        )));
    }
    Ok(comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// `Prefer: wait=30, respond-async` (RFC 7240 §4.1, §4.3). What is not understood is ignored, as it asks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Preference {
    pub(super) wait: Option<Duration>,
    pub(super) respond_async: bool,
}

impl Preference {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut preference = Self::default();
        let values = headers.get_all(HeaderName::from_static("prefer"));
        let values = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        for value in values.map(str::trim) {
            if value.eq_ignore_ascii_case("respond-async") {
                preference.respond_async = true;
            } else if let Some((name, seconds)) = value.split_once('=')
                && name.trim().eq_ignore_ascii_case("wait")
                && let Ok(seconds) = seconds.trim().parse::<u32>()
            {
                preference.wait = Some(Duration::from_secs(seconds.into()));
            }
        }
        preference
    }
}

/// The key may stand in double quotes (a structured field's string) or not.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Answer> {
    let Some(value) = single(headers, HeaderName::from_static("idempotency-key"))? else { return Ok(None) };
    let key = unquoted(&value);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:".contains(c);
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.chars().all(allowed) {
        return Err(Answer::bad_request(format!(
            "the Idempotency-Key must have 1 to {MAX_KEY_BYTES} of the characters A-Z a-z 0-9 - . _ ~ :"
        )));
    }
    Ok(Some(key.to_owned()))
}

/// A generation's number as entity tag: `"3"`, also without quotes. `*` asks for nothing.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Answer> {
    let Some(value) = single(headers, header::IF_MATCH)? else { return Ok(None) };
    if value == "*" {
        return Ok(None);
    }
    match unquoted(&value).parse() {
        Ok(generation) => Ok(Some(generation)),
        Err(_) => Err(Answer::bad_request(format!(
            "If-Match names one generation by its number, as in \"3\", and not {value:?}"
        ))),
    }
}

/// The one value of a header; several are refused.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>, Answer> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim().to_owned())),
        _ => Err(Answer::bad_request(format!("the header {name} must be there once, in plain characters"))),
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn preferences_are_read_and_unknown_ones_ignored() {
        let preference = Preference::of(&headers(&[("prefer", "handling=lenient, Wait=30, respond-async")]));
        assert_eq!(preference, Preference { wait: Some(Duration::from_secs(30)), respond_async: true });
        assert_eq!(Preference::of(&headers(&[("prefer", "wait=-1")])), Preference::default());
    }

    #[test]
    fn keys_and_generations_may_be_quoted() {
        for (value, key) in [("abc-1", Some("abc-1")), ("\"abc-1\"", Some("abc-1"))] {
            assert_eq!(idempotency_key(&headers(&[("idempotency-key", value)])).unwrap().as_deref(), key);
        }
        assert_eq!(if_match(&headers(&[("if-match", "\"12\"")])).unwrap(), Some(12));
        assert_eq!(if_match(&headers(&[("if-match", "12")])).unwrap(), Some(12));
        assert_eq!(if_match(&headers(&[("if-match", "*")])).unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for value in ["", "a b", "a/b", "\"", "../x"] {
            assert!(idempotency_key(&headers(&[("idempotency-key", value)])).is_err(), "{value}");
        }
        for value in ["abc", "1, 2", "W/\"1\"", "-1"] {
            assert!(if_match(&headers(&[("if-match", value)])).is_err(), "{value}");
        }
        let mut twice = headers(&[("if-match", "1")]);
        twice.append(header::IF_MATCH, "2".parse().unwrap());
        assert!(if_match(&twice).is_err());
    }
}
