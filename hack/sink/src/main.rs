//! The sink as a program.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Parser;
use mailsink::{Behaviour, Login, Sink, SinkConfig};
use tokio::signal::unix::{SignalKind, signal};

/// A counting SMTP server: refuses one session too many, keeps a journal, fails on demand.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where SMTP listens
    #[arg(long, default_value = "127.0.0.1:2525")]
    smtp: SocketAddr,
    /// Where SMTP over TLS listens
    #[arg(long)]
    smtps: Option<SocketAddr>,
    /// Where /stats, /journal and /behaviour are served by HTTP
    #[arg(long)]
    control: Option<SocketAddr>,
    /// Sessions allowed at once
    #[arg(long, default_value_t = 16)]
    limit: usize,
    /// Milliseconds before the reply to a whole message
    #[arg(long, default_value_t = 0)]
    mail_delay_ms: u64,
    /// Milliseconds before each batch of replies
    #[arg(long, default_value_t = 0)]
    reply_delay_ms: u64,
    /// Folder for ca.crt; STARTTLS is offered when it is given
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// Names and addresses in the certificate
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
    names: Vec<String>,
    /// user:password that clients must give, after TLS
    #[arg(long)]
    login: Option<String>,
    /// File to which accepted messages are appended, one JSON a line
    #[arg(long)]
    journal: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let login = arguments.login.as_deref().map(|login| {
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        Login { username: username.to_owned(), password: password.to_owned() }
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let sink = Sink::start(SinkConfig {
        smtp: arguments.smtp,
        smtps: arguments.smtps,
        control: arguments.control,
        limit: arguments.limit,
        tls: arguments.tls_dir.is_some(),
        names: arguments.names,
        tls_dir: arguments.tls_dir,
        login,
        journal: arguments.journal,
        keep_messages: false,
        behaviour: Behaviour {
            mail_delay_ms: arguments.mail_delay_ms,
            reply_delay_ms: arguments.reply_delay_ms,
            ..Behaviour::default()
        },
    })
    .await?;
    let place = |address: Option<SocketAddr>| address.map_or("none".to_owned(), |address| address.to_string());
    println!(
        "mailsink ready smtp={} smtps={} control={} limit={}",
        sink.smtp(),
        place(sink.smtps()),
        place(sink.control()),
        arguments.limit
    );
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
