//! Real servers, as they come: what `handover run` is for. Each is a command, and the files that it needs.
//!
//! Node.js and nginx are Debian's packages; gunicorn and uvicorn are installed by `scripts/test`, which says where. Elsewhere
//! they are looked up in `PATH`.

use std::path::{Path, PathBuf};

use crate::example::example_of;
use crate::skip::{have, skip};
use crate::workspace::Workspace;

/// Where `scripts/test` has installed the servers that are written in Python.
const PYTHON: &str = "HANDOVER_TEST_PYTHON";

/// A WSGI and an ASGI application: both answer `VERSION PID\n`, `/slow` after half a second.
const PYTHON_APP: &str = r#"
import asyncio, os, threading
VERSION = open("version").read().strip() if os.path.exists("version") else "python"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        threading.Event().wait(0.5)
    body = f"{VERSION} {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.5)
    body = f"{VERSION} {os.getpid()}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"#;

/// A Node.js server on the descriptor that its first argument names. TERM: no new connections, idle ones are closed.
const NODE_APP: &str = r#"
const fs = require("fs"), http = require("http");
const version = fs.existsSync("version") ? fs.readFileSync("version", "utf8").trim() : "node";
const server = http.createServer((request, response) => {
  const answer = () => response.end(`${version} ${process.pid}\n`);
  request.url === "/slow" ? setTimeout(answer, 500) : answer();
});
server.keepAliveTimeout = 60000;
server.listen({ fd: Number(process.argv[2]) });
process.on("SIGTERM", () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });
"#;

/// Where an executable of a server that is written in Python is, if it is installed; if not, notes that `test` was skipped.
fn python(name: &str, test: &str) -> Option<PathBuf> {
    let installed = std::env::var_os(PYTHON).map(|home| Path::new(&home).join("bin").join(name));
    let found = installed.filter(|path| path.exists()).or_else(|| in_path(name));
    if found.is_none() {
        skip(&format!("{test}: {name} is not installed: scripts/test does that"));
    }
    found
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// `gunicorn app:app`, with the application's file in this directory of the workspace. It takes sockets by `LISTEN_FDS` and says
/// `READY=1`.
#[must_use]
pub fn gunicorn(workspace: &Workspace, directory: &str, test: &str) -> Option<Vec<String>> {
    let gunicorn = python("gunicorn", test)?;
    workspace.write(format!("{directory}/app.py"), PYTHON_APP);
    // Threads, so that connections are kept alive.
    let arguments =
        ["--workers", "1", "--threads", "16", "--keep-alive", "60", "--graceful-timeout", "5", "app:app"];
    Some(command(&gunicorn, &arguments))
}

/// `uvicorn --fd N app:asgi`, the same.
#[must_use]
pub fn uvicorn(workspace: &Workspace, directory: &str, test: &str) -> Option<Vec<String>> {
    let uvicorn = python("uvicorn", test)?;
    workspace.write(format!("{directory}/app.py"), PYTHON_APP);
    Some(command(&uvicorn, &["--fd", "{fd}", "--log-level", "warning", "app:asgi"]))
}

/// A Node.js server that listens on a descriptor.
#[must_use]
pub fn node(workspace: &Workspace, directory: &str, test: &str) -> Option<Vec<String>> {
    have("node", test).then(|| {
        workspace.write(format!("{directory}/server.js"), NODE_APP);
        command(Path::new("node"), &["server.js", "{fd}"])
    })
}

/// nginx in the foreground, which knows inherited sockets from the variable `NGINX` (`3;`): the second value. The address is the
/// one that it finds on the socket.
#[must_use]
pub fn nginx(workspace: &Workspace, directory: &str, address: &str, test: &str) -> Option<Vec<String>> {
    if !have("nginx", test) {
        return None;
    }
    let prefix = workspace.path(directory);
    let text = format!(
        "daemon off; master_process on; worker_processes 1; pid nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; keepalive_timeout 60s; server {{ listen {address}; location / {{ return 200 \"nginx $pid\\n\"; }} }} }}\n"
    );
    workspace.write(format!("{directory}/nginx.conf"), &text);
    Some(command(
        Path::new("nginx"),
        &["-p", &format!("{}/", prefix.display()), "-e", "stderr", "-c", "nginx.conf"],
    ))
}

/// The program of this kit that can do everything wrong (`examples/any_program.rs`). `binary` is the program under test.
#[must_use]
pub fn any_program(binary: &str, words: &[&str]) -> Vec<String> {
    command(&example_of("handover-testkit", binary, "any_program"), words)
}

fn command(program: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = vec![program.to_str().expect("a path in UTF-8").to_owned()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    command
}

/// A command as the configuration has it: `["one", "two"]`.
#[must_use]
pub fn toml(command: &[String]) -> String {
    format!("{command:?}")
}
