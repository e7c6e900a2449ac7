//! kubectl, helm and the product's own command line, as a user types them.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncWriteExt, process::Command};

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code, when it was not ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end with `input` on its standard input.
pub async fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A], input: &str) -> Result<Output> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut stdin = child.stdin.take().context("the pipe to the program")?;
    let feed = async {
        // A program that ends without reading all of its input is judged by its exit code.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.with_context(|| format!("cannot wait for {name}"))?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a program that must succeed; returns its standard output.
pub async fn succeed<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A], input: &str) -> Result<String> {
    let name = program.as_ref().to_string_lossy().into_owned();
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let output = run(program, arguments, input).await?;
    if output.code != Some(0) {
        bail!("{name} {} failed ({:?}): {}{}", words.join(" "), output.code, output.stdout, output.stderr);
    }
    Ok(output.stdout)
}

/// `kubectl ARGUMENTS`, which must succeed.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    succeed("kubectl", arguments, "").await
}

/// `kubectl apply -f -` with the objects given.
pub async fn apply(objects: &serde_json::Value) -> Result<String> {
    succeed("kubectl", &["apply", "-f", "-"], &objects.to_string()).await
}

/// The repository's root.
pub fn repository() -> PathBuf {
    // This package lies in tests/e2e.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// The product's binary: `MAILRELAY_BIN`, or the one that cargo built beside this program.
pub fn mailrelay() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MAILRELAY_BIN") {
        return Ok(path.into());
    }
    beside("mailrelay").context("build it (cargo build) or set MAILRELAY_BIN")
}

/// A binary that cargo built beside this program.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    own.ancestors()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no binary {name} beside this program"))
}
