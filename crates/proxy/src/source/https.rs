//! A web page, by GET, with its entity tag (RFC 9110 §8.8.3) to tell one state of it from another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{HeaderMap, header};

use super::access::{Access, Login};
use super::client::{self, AUTHORIZATION, MAX_CONFIG_BYTES, Trouble};
use super::location::Location;

/// The longest tag or date that is kept; a longer one counts as none.
const MAX_TAG_BYTES: usize = 256;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) tag: Option<Tag>,
}

/// What the server calls a state of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tag {
    Entity(String),
    /// When it was changed, from servers that give no tag.
    Modified(String),
}

impl Tag {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let field = |name| {
            let text: &str = headers.get(name)?.to_str().ok()?.trim();
            (!text.is_empty() && text.len() <= MAX_TAG_BYTES).then(|| text.to_owned())
        };
        field(header::ETAG).map(Tag::Entity).or_else(|| field(header::LAST_MODIFIED).map(Tag::Modified))
    }

    /// `ETag "a1b2"`, `modified Tue, 15 Nov 1994 12:45:26 GMT`.
    pub(super) fn words(&self) -> String {
        match self {
            Tag::Entity(tag) => format!("ETag {tag}"),
            Tag::Modified(date) => format!("modified {date}"),
        }
    }
}

/// Gets the page, unless it still is in the state `known`: then `None`.
pub(super) fn get(
    location: &Location,
    path_and_query: &str,
    access: &Access,
    known: Option<&Tag>,
) -> Result<Option<Page>, Trouble> {
    let agent = client::agent(location, access)?;
    let mut request = agent.get(format!("{}{path_and_query}", location.root()));
    request = match known {
        Some(Tag::Entity(tag)) => request.header(header::IF_NONE_MATCH, tag),
        Some(Tag::Modified(date)) => request.header(header::IF_MODIFIED_SINCE, date),
        None => request,
    };
    request = match &access.login {
        Some(Login::Token(token)) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        Some(Login::Password { user, password }) => {
            let pair = STANDARD.encode(format!("{user}:{password}"));
            request.header(AUTHORIZATION, format!("Basic {pair}"))
        }
        None => request,
    };
    let response = request.call().map_err(client::unanswered)?;
    if response.status() == 304 && known.is_some() {
        return Ok(None);
    }
    client::judge(response.status(), "")?;
    let tag = Tag::of(response.headers());
    Ok(Some(Page { bytes: client::body(response, MAX_CONFIG_BYTES)?, tag }))
}
