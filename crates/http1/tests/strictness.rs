//! Messages that two recipients may read in two ways, or that break the grammar: each is refused, with this status
//! and this reason, in one piece or byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use handover_http1::*;

/// (what is wrong with it, status, reason, the bytes)
type Case = (&'static str, u16, &'static str, &'static [u8]);

#[rustfmt::skip]
const LENGTHS: &[Case] = &[
    ("both lengths", 400, "both Content-Length and Transfer-Encoding",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both lengths, the other way round", 400, "both Content-Length and Transfer-Encoding",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("both lengths, of zero", 400, "both Content-Length and Transfer-Encoding",
     b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("duplicate length, the same", 400, "two Content-Length headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("duplicate length, different", 400, "two Content-Length headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("duplicate length in another case", 400, "two Content-Length headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nCONTENT-LENGTH: 0\r\n\r\nhello"),
    ("list of equal lengths", 400, "Content-Length is a list",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("list of different lengths", 400, "Content-Length is a list",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,6\r\n\r\nhello"),
    ("length with an empty member", 400, "Content-Length is a list",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello"),
    ("positive sign", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
    ("negative sign", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello"),
    ("hexadecimal length", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("hexadecimal digits", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1f\r\n\r\nhello"),
    ("fraction", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello"),
    ("exponent", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5e1\r\n\r\nhello"),
    ("digits with a space between", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 6\r\n\r\nhello"),
    ("quoted length", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\nhello"),
    ("digits that are not ASCII", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xef\xbc\x95\r\n\r\nhello"),
    ("underscore between digits", 400, "Content-Length is not a decimal number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhello"),
    ("empty length", 400, "Content-Length is empty",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello"),
    ("length of 2^63", 400, "Content-Length is too long a number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\nhello"),
    ("length of 2^64 + 5", 400, "Content-Length is too long a number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
    ("length of forty zeros and a five", 400, "Content-Length is too long a number",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 00000000000000000000000000000000000000005\r\n\r\nhello"),
    ("length disguised by an underscore", 400,
     "a header name imitates a framing or forwarding header with an underscore",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\nhello"),
    ("TRACE with a body", 400, "TRACE with a body",
     b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
];

#[rustfmt::skip]
const CODINGS: &[Case] = &[
    ("unknown coding before chunked", 501, "the only transfer coding taken here is chunked",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", 400, "the last transfer coding is not chunked",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked and identity", 400, "the last transfer coding is not chunked",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("identity", 400, "the last transfer coding is not chunked",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("unknown coding alone", 400, "the last transfer coding is not chunked",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice in one list", 400, "the chunked coding is applied twice",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked on two lines", 400, "two Transfer-Encoding headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and then another line", 400, "two Transfer-Encoding headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n"),
    ("empty coding", 400, "Transfer-Encoding is empty",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n"),
    ("empty member after chunked", 400, "Transfer-Encoding is malformed",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    ("chunked with a parameter", 400, "Transfer-Encoding is malformed",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("quoted chunked", 400, "Transfer-Encoding is malformed",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("chunked behind a vertical tab", 400, "a header value has a control character",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("chunked with a byte that is not ASCII", 400, "Transfer-Encoding is malformed",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n"),
    ("Transfer-Encoding in HTTP/1.0", 400, "Transfer-Encoding in an HTTP/1.0 message",
     b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("Transfer-Encoding disguised by an underscore", 400,
     "a header name imitates a framing or forwarding header with an underscore",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
];

#[rustfmt::skip]
const LINES: &[Case] = &[
    ("obs-fold", 400, "a folded header line", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
    ("obs-fold with a tab", 400, "a folded header line", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n"),
    ("obs-fold of a Transfer-Encoding", 400, "a folded header line",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("space before the first header", 400, "a folded header line", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("bare LF after the request line", 400, "a line of the head ends in a bare LF",
     b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("bare LF after a header", 400, "a line of the head ends in a bare LF",
     b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    ("bare LF after an empty value", 400, "a line of the head ends in a bare LF",
     b"GET / HTTP/1.1\r\nHost: a\r\nX:\nY: b\r\n\r\n"),
    ("bare LF after trailing whitespace", 400, "a line of the head ends in a bare LF",
     b"GET / HTTP/1.1\r\nHost: a\r\nX: b \t\nY: b\r\n\r\n"),
    ("bare LF for the empty line", 400, "a line of the head ends in a bare LF",
     b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    ("bare LFs throughout", 400, "a line of the head ends in a bare LF", b"GET / HTTP/1.1\nHost: a\n\n"),
    ("Transfer-Encoding hidden behind a bare LF", 400, "a line of the head ends in a bare LF",
     b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("bare CR in a value", 400, "a header value has a bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n"),
    ("bare CR for a line end", 400, "a header value has a bare CR",
     b"GET / HTTP/1.1\r\nHost: a\rTransfer-Encoding: chunked\r\n\r\n"),
    ("bare CR in a name", 400, "a header name has a character that it may not have",
     b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: 1\r\n\r\n"),
    ("CR CR LF", 400, "a header value has a bare CR", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    ("space before the colon", 400, "whitespace in or after a header name",
     b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"),
    ("space before the colon of a length", 400, "whitespace in or after a header name",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello"),
    ("tab before the colon", 400, "whitespace in or after a header name",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("space in a name", 400, "whitespace in or after a header name",
     b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n"),
    ("empty name", 400, "a header has no name", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    ("no colon", 400, "a header line without a colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    ("NUL in a name", 400, "a header name has a character that it may not have",
     b"GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n"),
    ("NUL in a value", 400, "a header value has a NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n"),
    ("DEL in a value", 400, "a header value has a control character",
     b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"),
    ("escape in a value", 400, "a header value has a control character",
     b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n"),
    ("a name that is not ASCII", 400, "a header name has a character that it may not have",
     b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa9: 1\r\n\r\n"),
    ("brackets in a name", 400, "a header name has a character that it may not have",
     b"GET / HTTP/1.1\r\nHost: a\r\nX[0]: 1\r\n\r\n"),
    ("malformed Connection", 400, "Connection is malformed",
     b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close; x\r\n\r\n"),
    ("client address disguised by underscores", 400,
     "a header name imitates a framing or forwarding header with an underscore",
     b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 127.0.0.1\r\n\r\n"),
    ("client address disguised by one underscore", 400,
     "a header name imitates a framing or forwarding header with an underscore",
     b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded_For: 127.0.0.1\r\n\r\n"),
    ("unknown expectation", 417, "the only expectation met here is 100-continue",
     b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\nx"),
    ("two expectations", 417, "two Expect headers",
     b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"),
];

#[rustfmt::skip]
const HOSTS: &[Case] = &[
    ("no Host", 400, "no Host header", b"GET / HTTP/1.1\r\n\r\n"),
    ("no Host, but an absolute target", 400, "no Host header", b"GET http://a/ HTTP/1.1\r\n\r\n"),
    ("two Hosts", 400, "two Host headers", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("two equal Hosts", 400, "two Host headers", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
    ("two Hosts in HTTP/1.0", 400, "two Host headers", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("empty Host", 400, "the host is empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("list of Hosts", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("Host with a path", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("Host with user information", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("Host with a space", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("Host that is not ASCII", 400, "the host is malformed",
     b"GET / HTTP/1.1\r\nHost: \xc3\xa9.example\r\n\r\n"),
    ("Host with percent-encoding", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n"),
    ("Host that begins with a dot", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: .a\r\n\r\n"),
    ("Host with an empty label", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n"),
    ("Host of a port alone", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    ("Host with a port that is no number", 400, "the host's port is malformed",
     b"GET / HTTP/1.1\r\nHost: a:8o\r\n\r\n"),
    ("Host with a signed port", 400, "the host's port is malformed",
     b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n"),
    ("Host with two ports", 400, "the host's port is malformed", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    ("Host with a port over 65535", 400, "the host's port is out of range",
     b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
    ("Host with an open bracket", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    ("Host with a bad IPv6 address", 400, "the host is malformed", b"GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n"),
    ("Host with text after the bracket", 400, "the host is malformed",
     b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"),
    ("Host without brackets", 400, "the host's port is malformed", b"GET / HTTP/1.1\r\nHost: a::1\r\n\r\n"),
    ("absolute target and another Host", 400, "Host differs from the target",
     b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("absolute target and another port", 400, "Host differs from the target",
     b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("absolute https target and port 80", 400, "Host differs from the target",
     b"GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n"),
];

#[rustfmt::skip]
const TARGETS: &[Case] = &[
    ("fragment", 400, "the target has a fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("fragment in the query", 400, "the target has a fragment", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("NUL in the target", 400, "the target has a control character",
     b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("tab in the target", 400, "the target has a control character",
     b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("DEL in the target", 400, "the target has a control character",
     b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("UTF-8 in the target", 400, "the target has a byte that is not ASCII",
     b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("UTF-8 in the query", 400, "the target has a byte that is not ASCII",
     b"GET /?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("Latin-1 in the target", 400, "the target has a byte that is not ASCII",
     b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space in the target", 400, "malformed HTTP version", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("bare CR in the target", 400, "the request line has no HTTP version",
     b"GET /a\rX HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("backslash in the path", 400, "a character in the path must be percent-encoded",
     b"GET /a\\..\\b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("angle bracket in the path", 400, "a character in the path must be percent-encoded",
     b"GET /<script> HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("quote in the path", 400, "a character in the path must be percent-encoded",
     b"GET /\"x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("relative path", 400, "the target is neither a path nor an absolute URI",
     b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("query alone", 400, "the target is neither a path nor an absolute URI",
     b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("authority for GET", 400, "the target is neither a path nor an absolute URI",
     b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    ("other scheme", 400, "the target's scheme is neither http nor https",
     b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("scheme of spite", 400, "the target's scheme is neither http nor https",
     b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("user information in the target", 400, "the target has user information",
     b"GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("no authority in the target", 400, "the host is empty", b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("bad authority in the target", 400, "the host is malformed",
     b"GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("asterisk for GET", 400, "only OPTIONS may have * for a target", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("asterisk and more", 400, "the target is neither a path nor an absolute URI",
     b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT", 501, "CONNECT is not offered here", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    ("CONNECT with a path", 400, "the target of CONNECT must be host:port",
     b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT without a port", 400, "the target of CONNECT must be host:port",
     b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[rustfmt::skip]
const START_LINES: &[Case] = &[
    ("HTTP/0.9", 400, "the request line has no HTTP version", b"GET /\r\n"),
    ("HTTP/2 preface", 505, "only HTTP/1.0 and HTTP/1.1 are spoken here",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/1.2", 505, "only HTTP/1.0 and HTTP/1.1 are spoken here", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HTTP/3.0", 505, "only HTTP/1.0 and HTTP/1.1 are spoken here", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
    ("version in lower case", 400, "malformed HTTP version", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("version of three parts", 400, "malformed HTTP version", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("version with zeros", 400, "malformed HTTP version", b"GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
    ("text after the version", 400, "malformed HTTP version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    ("two spaces before the target", 400, "more than one space in the request line",
     b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two spaces before the version", 400, "malformed HTTP version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("tab for a space", 400, "malformed method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space before the method", 400, "malformed method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("method with a bad character", 400, "malformed method", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("method that is not ASCII", 400, "malformed method", b"G\xc3\x8bT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("overlong method", 501, "the method is too long",
     b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOP / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("bare LF before the request", 400, "the request begins with a bare CR or LF",
     b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("bare CR before the request", 400, "the request begins with a bare CR or LF",
     b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("empty lines before the request", 400, "too many empty lines before the request",
     b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a TLS hello", 400, "malformed method", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("a response", 400, "malformed method",
     b"HTTP/1.1 200 HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// What follows `POST / HTTP/1.1 … Transfer-Encoding: chunked` in these.
#[rustfmt::skip]
const CHUNKS: &[Case] = &[
    ("no size", 400, "a chunk size is not a hexadecimal number", b"\r\nhello\r\n0\r\n\r\n"),
    ("positive size", 400, "a chunk size is not a hexadecimal number", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("negative size", 400, "a chunk size is not a hexadecimal number", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("0x before the size", 400, "a chunk size is not a hexadecimal number", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("size that is no number", 400, "a chunk size is not a hexadecimal number", b"g\r\nhello\r\n0\r\n\r\n"),
    ("underscore in the size", 400, "a chunk size is not a hexadecimal number", b"0_5\r\nhello\r\n0\r\n\r\n"),
    ("size of 16 digits", 400, "a chunk size has too many digits", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("size of 17 digits that wraps", 400, "a chunk size has too many digits",
     b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size of many zeros", 400, "a chunk size has too many digits",
     b"0000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("space before the size", 400, "whitespace around a chunk size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("space after the size", 400, "whitespace around a chunk size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("tab after the size", 400, "whitespace around a chunk size", b"5\t;x\r\nhello\r\n0\r\n\r\n"),
    ("bare LF after the size", 400, "a bare LF in a chunk header", b"5\nhello\r\n0\r\n\r\n"),
    ("bare CR after the size", 400, "a bare CR in a chunk header", b"5\rhello\r\n0\r\n\r\n"),
    ("CR CR LF after the size", 400, "a bare CR in a chunk header", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ("data shorter than its size", 400, "a chunk is longer than its size says", b"3\r\nhello\r\n0\r\n\r\n"),
    ("data longer than its size", 400, "a chunk is longer than its size says", b"6\r\nhello\r\n0\r\n\r\n"),
    ("bare LF after the data", 400, "a chunk is longer than its size says", b"5\r\nhello\n0\r\n\r\n"),
    ("bare CR after the data", 400, "a chunk is longer than its size says", b"5\r\nhello\r0\r\n\r\n"),
    ("nothing after the data", 400, "a chunk is longer than its size says", b"5\r\nhello0\r\n\r\n"),
    ("bare LF in an extension", 400, "a bare LF in a chunk header", b"5;x\nhello\r\n0\r\n\r\n"),
    ("bare CR in an extension", 400, "a bare CR in a chunk header", b"5;x\ry\r\nhello\r\n0\r\n\r\n"),
    ("LF in a quoted extension", 400, "a bare LF in a chunk header", b"5;x=\"a\nb\"\r\nhello\r\n0\r\n\r\n"),
    ("NUL in an extension", 400, "a chunk extension has a character that it may not have",
     b"5;\0\r\nhello\r\n0\r\n\r\n"),
    ("extension that is not ASCII", 400, "a chunk extension has a character that it may not have",
     b"5;\xe9\r\nhello\r\n0\r\n\r\n"),
    ("empty extension", 400, "a chunk extension without a name", b"5;\r\nhello\r\n0\r\n\r\n"),
    ("extension without a size", 400, "a chunk size is not a hexadecimal number", b";x\r\n\r\n"),
    ("bare LF for the empty line", 400, "a trailer line ends in a bare LF", b"0\r\n\n"),
    ("bare LF in the trailers", 400, "a line of the head ends in a bare LF", b"0\r\nX: 1\nY: 2\r\n\r\n"),
    ("bare CR in the trailers", 400, "a header value has a bare CR", b"0\r\nX: 1\r2\r\n\r\n"),
    ("folded trailer", 400, "a folded header line", b"0\r\nX: 1\r\n 2\r\n\r\n"),
    ("space before a trailer's colon", 400, "whitespace in or after a header name", b"0\r\nX : 1\r\n\r\n"),
    ("request for a trailer", 400, "a header line without a colon",
     b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("Content-Length for a trailer", 400, "a trailer field that belongs into the head",
     b"0\r\nContent-Length: 5\r\n\r\n"),
    ("Transfer-Encoding for a trailer", 400, "a trailer field that belongs into the head",
     b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("Host for a trailer", 400, "a trailer field that belongs into the head", b"0\r\nHost: b\r\n\r\n"),
    ("Authorization for a trailer", 400, "a trailer field that belongs into the head",
     b"0\r\nAuthorization: Basic eDp5\r\n\r\n"),
    ("X-Forwarded-For for a trailer", 400, "a trailer field that belongs into the head",
     b"0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"),
    ("disguised trailer", 400, "a trailer field that belongs into the head",
     b"0\r\nContent_Length: 5\r\n\r\n"),
];

/// From upstreams; the status is always 502.
#[rustfmt::skip]
const RESPONSES: &[Case] = &[
    ("both lengths", 502, "both Content-Length and Transfer-Encoding",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("duplicate length", 502, "two Content-Length headers",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("list of lengths", 502, "Content-Length is a list",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("signed length", 502, "Content-Length is not a decimal number",
     b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
    ("bad length of an answer without a body", 502, "Content-Length is not a decimal number",
     b"HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n"),
    ("unknown coding", 502, "the only transfer coding taken here is chunked",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", 502, "the last transfer coding is not chunked",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("Transfer-Encoding in HTTP/1.0", 502, "Transfer-Encoding in an HTTP/1.0 message",
     b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("obs-fold", 502, "a folded header line", b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n"),
    ("bare LF after the status line", 502, "a line of the head ends in a bare LF",
     b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
    ("bare LF after a header", 502, "a line of the head ends in a bare LF",
     b"HTTP/1.1 200 OK\r\nContent-Length: 0\nX: y\r\n\r\n"),
    ("bare LF for the empty line", 502, "a line of the head ends in a bare LF",
     b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
    ("bare CR in a value", 502, "a header value has a bare CR", b"HTTP/1.1 200 OK\r\nX: 1\r2\r\n\r\n"),
    ("bare CR in the reason", 502, "malformed status line",
     b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
    ("NUL in the reason", 502, "malformed status line", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
    ("space before the colon", 502, "whitespace in or after a header name",
     b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"),
    ("NUL in a value", 502, "a header value has a NUL", b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
    ("HTTP/2", 502, "the upstream speaks neither HTTP/1.0 nor HTTP/1.1", b"HTTP/2.0 200 OK\r\n\r\n"),
    ("another protocol", 502, "the upstream speaks neither HTTP/1.0 nor HTTP/1.1",
     b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("status of two digits", 502, "malformed status line", b"HTTP/1.1 20 OK\r\n\r\n"),
    ("status of four digits", 502, "malformed status line", b"HTTP/1.1 2000 OK\r\n\r\n"),
    ("status below 100", 502, "the status is out of range", b"HTTP/1.1 099 X\r\n\r\n"),
    ("status that is no number", 502, "malformed status line", b"HTTP/1.1 2x0 OK\r\n\r\n"),
    ("two spaces before the status", 502, "malformed status line", b"HTTP/1.1  200 OK\r\n\r\n"),
    ("empty line before the status line", 502, "an empty line before the status line",
     b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ("101 that nobody asked for", 502, "the upstream switches protocols without being asked",
     b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ("interim response with a body", 502, "an interim response with a body",
     b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello"),
    ("disguised length", 502, "a header name imitates a framing or forwarding header with an underscore",
     b"HTTP/1.1 200 OK\r\nContent_Length: 5\r\n\r\nhello"),
    ("bad chunk size", 502, "a chunk size is not a hexadecimal number",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ("forbidden trailer", 502, "a trailer field that belongs into the head",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\n\r\n"),
];

const NOT_ASKED: Asked = Asked { head: false, upgrade: false };

/// However few bytes are there, the message is never taken; and once it is refused, more bytes do not heal it.
fn refused_at_every_length(name: &str, bytes: &[u8], read: impl Fn(&[u8]) -> Read) {
    let mut refused = false;
    for end in 0..=bytes.len() {
        match read(&bytes[..end]) {
            Read::Whole(message) => panic!("{name}: taken at {end} bytes: {message:?}"),
            Read::Refused(_) => refused = true,
            Read::Unfinished => assert!(!refused, "{name}: no longer refused at {end} bytes"),
        }
    }
    assert!(refused, "{name}");
}

fn check(cases: &[Case], before: &[u8], read: impl Fn(&[u8]) -> Read) {
    for (name, status, reason, bytes) in cases {
        let bytes = [before, bytes].concat();
        assert_eq!(read(&bytes), Read::Refused(Refusal { status: *status, reason }), "{name}");
        refused_at_every_length(name, &bytes, &read);
    }
}

#[test]
fn ambiguous_lengths_are_refused() {
    check(LENGTHS, b"", read_request);
}

#[test]
fn ambiguous_codings_are_refused() {
    check(CODINGS, b"", read_request);
}

#[test]
fn malformed_header_lines_are_refused() {
    check(LINES, b"", read_request);
}

#[test]
fn missing_duplicate_and_malformed_hosts_are_refused() {
    check(HOSTS, b"", read_request);
}

#[test]
fn malformed_targets_are_refused() {
    check(TARGETS, b"", read_request);
}

#[test]
fn malformed_request_lines_are_refused() {
    check(START_LINES, b"", read_request);
}

#[test]
fn malformed_chunks_and_trailers_are_refused() {
    check(CHUNKS, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", read_request);
}

#[test]
fn malformed_responses_are_refused_with_502() {
    assert!(RESPONSES.iter().all(|(_, status, ..)| *status == 502));
    check(RESPONSES, b"", |bytes| read_response(bytes, NOT_ASKED));
}

#[test]
fn an_upgrade_to_nothing_is_refused() {
    let asked = Asked { head: false, upgrade: true };
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n";
    let reason = "the upstream switches protocols and does not say to which";
    assert_eq!(read_response(answer, asked), Read::Refused(Refusal { status: 502, reason }));
}

#[test]
fn the_table_is_as_long_as_was_promised() {
    let tables = [LENGTHS, CODINGS, LINES, HOSTS, TARGETS, START_LINES, CHUNKS, RESPONSES];
    assert!(tables.iter().map(|table| table.len()).sum::<usize>() >= 90);
}

/// Every bound, by one more than it allows.
#[test]
fn what_is_larger_than_a_limit_is_refused_with_its_own_status() {
    let limits = HeadLimits { head_bytes: 200, headers: 3, target_bytes: 20 };
    let refused = |bytes: &[u8], status, reason| {
        assert_eq!(read_request_within(bytes, &limits, 10), Read::Refused(Refusal { status, reason }));
        refused_at_every_length(reason, bytes, |bytes| read_request_within(bytes, &limits, 10));
    };
    let taken = |bytes: &[u8]| {
        assert!(matches!(read_request_within(bytes, &limits, 10), Read::Whole(_)));
    };
    taken(b"GET /aaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(b"GET /aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n", 414, "the request target is too long");
    taken(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n");
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\nX: 3\r\n\r\n", 431, "too many headers");
    let head_of = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
    };
    taken(&head_of(200));
    refused(&head_of(201), 431, "the request head is too large");
    let post = |length: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n{body}").into_bytes()
    };
    let chunked = "Transfer-Encoding: chunked";
    taken(&post("Content-Length: 10", "0123456789"));
    refused(&post("Content-Length: 11", "0123456789a"), 413, "the body is larger than allowed here");
    taken(&post(chunked, "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"));
    refused(
        &post(chunked, "5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n"),
        413,
        "the body is larger than allowed here",
    );
    refused(&post(chunked, "fffffffffffffff\r\n"), 413, "the body is larger than allowed here");
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let request = |body: String| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    let extension = |bytes: usize| format!("1;{}\r\nx\r\n", "e".repeat(bytes));
    let most = usize::from(limits::MAX_CHUNK_EXTENSION_BYTES);
    let refused = |bytes: &[u8], status, reason| {
        assert_eq!(read_request(bytes), Read::Refused(Refusal { status, reason }));
    };
    let taken = |bytes: &[u8]| assert!(matches!(read_request(bytes), Read::Whole(_)));
    taken(&request(extension(most) + "0\r\n\r\n"));
    refused(&request(extension(most + 1) + "0\r\n\r\n"), 400, "chunk extensions are too long");
    let chunks = usize::from(limits::MAX_BODY_EXTENSION_BYTES) / most;
    taken(&request(extension(most).repeat(chunks) + "0\r\n\r\n"));
    refused(
        &request(extension(most).repeat(chunks) + &extension(1) + "0\r\n\r\n"),
        400,
        "chunk extensions are too long",
    );
    taken(&request(format!("0\r\n{}\r\n", "X: 1\r\n".repeat(limits::MAX_TRAILERS))));
    let many = request(format!("0\r\n{}\r\n", "X: 1\r\n".repeat(limits::MAX_TRAILERS + 1)));
    refused(&many, 431, "the trailer section is too large");
    let line = |bytes: usize| format!("0\r\nX: {}\r\n\r\n", "x".repeat(bytes - 7));
    taken(&request(line(limits::MAX_TRAILER_BYTES)));
    refused(&request(line(limits::MAX_TRAILER_BYTES + 1)), 431, "the trailer section is too large");
    let options = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "a,".repeat(33));
    refused(options.as_bytes(), 400, "too many options in Connection");
}

#[test]
fn a_body_that_ends_early_is_an_error() {
    let mut request = BodyReader::request(BodyKind::Length(5), u64::MAX).unwrap();
    request.next(b"hell").unwrap();
    let reason = "the body ends before it is whole";
    assert_eq!(request.end_of_input(), Err(Refusal { status: 400, reason }));
    let mut response = BodyReader::response(BodyKind::Chunked);
    response.next(b"5\r\nhello\r\n0\r\n").unwrap();
    assert_eq!(response.end_of_input(), Err(Refusal { status: 502, reason }));
}
