//! The proxies' configurations: the templates of `bench/peers/`, filled in.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Kind, Setting, certificates};
use crate::Result;

const HANDOVER: &str = include_str!("../../../../bench/peers/handover.toml");
const NGINX: &str = include_str!("../../../../bench/peers/nginx.conf");
const HAPROXY: &str = include_str!("../../../../bench/peers/haproxy.cfg");

/// The load's WebSockets go to the first name.
const NGINX_WEBSOCKET: &str = "        location = /ws {
            proxy_pass http://origin;
            proxy_set_header Connection \"upgrade\";
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $http_host;
            proxy_read_timeout 1h;
        }
";
/// Where distributions put nginx's stream module.
const STREAM_MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
/// The first version of nginx with `keepalive_min_timeout`.
const NGINX_MIN_TIMEOUT: (u32, u32, u32) = (1, 27, 4);

/// nginx's stream module, if it is installed.
pub(super) fn nginx_stream_module() -> Option<PathBuf> {
    STREAM_MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Everything that a template needs.
pub(super) struct Filled<'a> {
    pub(super) kind: Kind,
    pub(super) setting: &'a Setting,
    pub(super) threads: usize,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) version: u64,
    pub(super) directory: &'a Path,
}

impl Filled<'_> {
    /// The configuration's text. Files that it names are written into the directory.
    pub(super) fn text(&self) -> Result<String> {
        let template = match self.kind {
            Kind::Handover => HANDOVER,
            Kind::Nginx => NGINX,
            Kind::Haproxy => HAPROXY,
        };
        let (modules, stream) = self.stream();
        Ok(template
            .replace("@HTTP@", &self.http.to_string())
            .replace("@TCP@", &self.tcp.to_string())
            .replace("@ORIGIN@", &self.setting.origin.to_string())
            .replace("@ECHO@", &self.setting.echo.to_string())
            .replace("@VERSION@", &self.version.to_string())
            .replace("@THREADS@", &self.threads.to_string())
            .replace("@DIR@", &self.directory.display().to_string())
            .replace("@TUNED@", &self.tuned())
            .replace("@MODULES@", &modules)
            .replace("@STREAM@", &stream)
            .replace("@TLS@", &self.tls()?)
            .replace("@ROUTES@", &self.routes()?))
    }

    fn stream(&self) -> (String, String) {
        let (Kind::Nginx, Some(module)) = (self.kind, nginx_stream_module()) else {
            return Default::default();
        };
        let block = format!(
            "stream {{\n    server {{\n        listen {};\n        proxy_pass {};\n        proxy_timeout 1h;\n    }}\n}}\n",
            self.tcp, self.setting.echo
        );
        (format!("load_module {};", module.display()), block)
    }

    fn tuned(&self) -> String {
        match self.kind {
            Kind::Haproxy if self.setting.tuned => "option idle-close-on-response".to_owned(),
            Kind::Nginx if self.setting.tuned && can_be_tuned(self.kind).is_ok() => {
                "keepalive_min_timeout 75s;".to_owned()
            }
            _ => String::new(),
        }
    }

    /// A listener with a certificate for each name, as each proxy's manual advises for many of them.
    fn tls(&self) -> Result<String> {
        let (mut text, https) = (String::new(), self.https);
        let names = self.setting.certificates.iter().map(|pair| &pair.names[0]).enumerate();
        let directory = certificates::directory(self.directory);
        let directory = directory.display();
        match self.kind {
            _ if self.setting.certificates.is_empty() => {}
            Kind::Handover => {
                write!(
                    text,
                    "[listeners.secure]\naddress = \"{https}\"\n[listeners.secure.tls]\ncertificates = [\n"
                )?;
                for (number, _) in names {
                    writeln!(
                        text,
                        "  {{ certificate = \"{directory}/{number}.pem\", key = \"{directory}/{number}.key\" }},"
                    )?;
                }
                text.push_str("]\n");
            }
            Kind::Nginx => {
                text.push_str(
                    "    server_names_hash_max_size 131072;\n    server_names_hash_bucket_size 128;\n",
                );
                for (number, name) in names {
                    let backlog = if number == 0 { " backlog=4096" } else { "" };
                    write!(
                        text,
                        "    server {{\n        listen {https} ssl{backlog};\n        server_name {name};\n        \
                         ssl_certificate {directory}/{number}.pem;\n        ssl_certificate_key {directory}/{number}.key;\n        \
                         location / {{ proxy_pass http://origin; }}\n"
                    )?;
                    if number == 0 {
                        text.push_str(NGINX_WEBSOCKET);
                    }
                    text.push_str("    }\n");
                }
            }
            Kind::Haproxy => write!(
                text,
                "frontend secure\n    bind {https} ssl crt {directory}\n    option forwardfor\n    \
                 http-request set-header X-Forwarded-Proto https\n    \
                 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n    default_backend origin\n"
            )?,
        }
        Ok(text)
    }

    /// Routes that are looked up and lead to the same origin: as each proxy's manual advises for many of them.
    fn routes(&self) -> Result<String> {
        let mut text = String::new();
        match self.kind {
            Kind::Handover => {
                for route in 0..self.setting.routes {
                    write!(text, "[[routes]]\npath_prefix = \"/r/{route}/\"\nservice = \"origin\"\n\n")?;
                }
            }
            Kind::Nginx => {
                for route in 0..self.setting.routes {
                    writeln!(text, "        location /r/{route}/ {{ proxy_pass http://origin; }}")?;
                }
            }
            Kind::Haproxy if self.setting.routes > 0 => {
                let mut map = String::new();
                for route in 0..self.setting.routes {
                    writeln!(map, "/r/{route}/ origin")?;
                }
                let file = self.directory.join("routes.map");
                std::fs::write(&file, map)?;
                writeln!(text, "    use_backend %[path,map_beg({},origin)]", file.display())?;
            }
            Kind::Haproxy => {}
        }
        Ok(text)
    }
}

/// Whether this proxy has settings that make its reloads lose less; if not, why.
pub(super) fn can_be_tuned(kind: Kind) -> std::result::Result<(), String> {
    match kind {
        Kind::Handover => Err("needs no tuning".to_owned()),
        Kind::Haproxy => Ok(()),
        Kind::Nginx => {
            let text = std::process::Command::new("nginx").arg("-v").output();
            let text = text.map_err(|error| error.to_string())?.stderr;
            let text = String::from_utf8_lossy(&text).into_owned();
            match version(&text) {
                Some(version) if version >= NGINX_MIN_TIMEOUT => Ok(()),
                _ => Err(format!("keepalive_min_timeout needs nginx 1.27.4, this is {}", text.trim())),
            }
        }
    }
}

/// `nginx version: nginx/1.22.1` → (1, 22, 1).
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let numbers = text.split_once("nginx/")?.1;
    let mut parts = numbers.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version("nginx version: nginx/1.22.1\n"), Some((1, 22, 1)));
        assert!(version("nginx/1.9.0").unwrap() < version("nginx/1.27.4 (Debian)").unwrap());
    }

    #[test]
    fn no_template_keeps_a_placeholder() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let directory = std::env::temp_dir();
        for kind in [Kind::Handover, Kind::Nginx, Kind::Haproxy] {
            let setting = Setting { tuned: true, ..Setting::of(address, address) };
            let filled = Filled {
                kind,
                setting: &setting,
                threads: 2,
                http: address,
                https: address,
                tcp: address,
                version: 1,
                directory: &directory,
            };
            assert!(!filled.text().unwrap().lines().any(|line| !line.starts_with('#') && line.contains('@')));
        }
    }
}
