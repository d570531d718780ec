//! One pass over the headers of a head: every line is checked, the known ones are read, and for each line it is
//! decided whether it goes on. The writers then only copy the stretches between the marked lines.

use crate::framing::{self, Options};
use crate::header::{Header, Known, Layout, check_line, classify, list_members};
use crate::refusal::Refusal;

/// One bit per header line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Not forwarded: hop-by-hop, or written anew.
    pub(crate) dropped: u128,
    /// Legal but odd whitespace: written anew as `Name: value`.
    pub(crate) odd: u128,
    /// What a client said about forwarding: `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded`.
    pub(crate) forwarding: u128,
    /// The `Content-Length` line, if it can be copied as it stands.
    pub(crate) length: u128,
    /// `Trailer` lines: only of use where the body stays chunked.
    pub(crate) trailer: u128,
}

/// What the headers of one head say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan<'b> {
    pub(crate) marks: Marks,
    pub(crate) content_length: Option<u64>,
    pub(crate) transfer_encoding: bool,
    pub(crate) options: Options,
    pub(crate) host: Option<&'b [u8]>,
    pub(crate) expect: Option<&'b [u8]>,
    pub(crate) expect_line: u128,
    pub(crate) upgrade: Option<&'b [u8]>,
    pub(crate) http2_settings: bool,
    pub(crate) keep_alive: Option<&'b [u8]>,
    pub(crate) accepts_trailers: bool,
    pub(crate) has_date: bool,
}

/// Reads the headers of a request (`REQUEST`) or a response. `raw` is the head, from its first byte.
pub(crate) fn scan<'b, const REQUEST: bool>(
    raw: &'b [u8],
    headers: &[Header<'b>],
) -> Result<Scan<'b>, Refusal> {
    let mut found = Scan::default();
    let mut bit = 1u128;
    for header in headers {
        let layout = check_line(raw, header)?;
        if layout == Layout::Odd {
            found.marks.odd |= bit;
        }
        let known = classify(header.name.as_bytes());
        if known != Known::Other {
            found.read::<REQUEST>(known, header.value, layout, bit)?;
        }
        // 128 headers at most, so the bit is shifted out after the last one only.
        bit <<= 1;
    }
    if found.options.names_others() {
        found.drop_named(headers);
    }
    Ok(found)
}

impl<'b> Scan<'b> {
    fn read<const REQUEST: bool>(
        &mut self,
        known: Known,
        value: &'b [u8],
        layout: Layout,
        bit: u128,
    ) -> Result<(), Refusal> {
        match known {
            Known::Other => {}
            Known::Disguised => return Err(DISGUISED),
            Known::ContentLength => self.read_length(value, layout, bit)?,
            Known::TransferEncoding => {
                if self.transfer_encoding {
                    return Err(Refusal::bad("two Transfer-Encoding headers"));
                }
                framing::check_transfer_encoding(value)?;
                self.transfer_encoding = true;
                self.marks.dropped |= bit;
            }
            Known::Connection => {
                self.options.read(value)?;
                self.marks.dropped |= bit;
            }
            Known::Host if REQUEST => {
                set_once(&mut self.host, value, Refusal::bad("two Host headers"))?;
            }
            Known::Expect if REQUEST => {
                set_once(&mut self.expect, value, Refusal::new(417, "two Expect headers"))?;
                self.expect_line = bit;
            }
            Known::Te if REQUEST => {
                // `trailers` may not have parameters; other members name codings that we do not speak.
                self.accepts_trailers |=
                    list_members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"));
                self.marks.dropped |= bit;
            }
            Known::Upgrade => {
                // Two lines would be one list; nobody sends that, and to ignore an upgrade is always allowed.
                self.upgrade = if self.upgrade.is_none() { Some(value) } else { Some(b"") };
                self.marks.dropped |= bit;
            }
            Known::Http2Settings if REQUEST => {
                self.http2_settings = true;
                self.marks.dropped |= bit;
            }
            Known::KeepAlive => {
                self.keep_alive = Some(value);
                self.marks.dropped |= bit;
            }
            Known::ProxyConnection => self.marks.dropped |= bit,
            Known::Trailer => self.marks.trailer |= bit,
            Known::Date => self.has_date = true,
            Known::XForwardedFor | Known::XForwardedHost | Known::XForwardedProto | Known::Forwarded
                if REQUEST =>
            {
                self.marks.forwarding |= bit;
            }
            _ => {}
        }
        Ok(())
    }

    fn read_length(&mut self, value: &[u8], layout: Layout, bit: u128) -> Result<(), Refusal> {
        if self.content_length.is_some() {
            return Err(Refusal::bad("two Content-Length headers"));
        }
        self.content_length = Some(framing::parse_content_length(value)?);
        // Leading zeros are legal, but are not passed on: somebody may read them as octal.
        let canonical = value.len() == 1 || value.first() != Some(&b'0');
        if canonical && layout == Layout::Plain {
            self.marks.length = bit;
        } else {
            self.marks.dropped |= bit;
        }
        Ok(())
    }

    /// Marks the headers that `Connection` names, except those that are not its to name.
    #[cold]
    fn drop_named(&mut self, headers: &[Header<'b>]) {
        let named = headers
            .iter()
            .filter(|header| classify(header.name.as_bytes()) == Known::Connection)
            .flat_map(|header| list_members(header.value));
        for option in named {
            for (at, header) in headers.iter().enumerate() {
                if header.name.as_bytes().eq_ignore_ascii_case(option) && !framing::is_end_to_end(option) {
                    self.marks.dropped |= 1 << at;
                }
            }
        }
    }
}

fn set_once<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8], twice: Refusal) -> Result<(), Refusal> {
    if place.replace(value).is_some() { Err(twice) } else { Ok(()) }
}

const DISGUISED: Refusal =
    Refusal::bad("a header name imitates a framing or forwarding header with an underscore");
