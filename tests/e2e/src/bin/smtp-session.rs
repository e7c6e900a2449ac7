//! One SMTP session on the socket that is its standard input, as inetd starts it; for servers that count processes
//! (`testkit::CountingServer`). Ends a moment after its connection, as real ones do, which still write their logs.

use std::{
    env,
    io::{self, Write},
    net::TcpStream,
    os::fd::AsFd,
    thread,
    time::Duration,
};

use testkit::session::{Manners, serve};

/// How long the process outlives its connection.
const LINGER: Duration = Duration::from_millis(5);

fn main() -> io::Result<()> {
    let numbers: Vec<u64> = env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [pause, rate, timeout] = numbers[..] else {
        return Err(io::Error::other("usage: smtp-session PAUSE_MS RATE TIMEOUT_MS, with a socket as standard input"));
    };
    let stream = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let limit = Some(Duration::from_millis(timeout));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    let manners = Manners { pause: Duration::from_millis(pause), rate: (rate > 0).then_some(rate) };
    // A client that goes away is no failure of ours.
    let _ = serve(&stream, &stream, || manners, |id| drop(io::stderr().write_all(format!("{id}\n").as_bytes())));
    drop(stream);
    // Standard input is the same socket, which ends with its last copy.
    nix::unistd::close(0)?;
    thread::sleep(LINGER);
    Ok(())
}
