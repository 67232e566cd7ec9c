//! A new TCP connection to a server outside, which sends back all that it gets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::content::Content;
use crate::witness::Witness;

/// Where the lab's server is.
const SERVER: ([u8; 4], u16) = ([10, 0, 2, 100], 7);

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The network.
pub(crate) struct Network {
    server: SocketAddr,
    content: Content,
}

impl Network {
    /// The network that the lab gives a machine.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            server: SERVER.into(),
            content: Content::new(seed),
        }
    }
}

impl Witness for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn before(&mut self) -> Result<String> {
        self.verify()
    }

    fn verify(&mut self) -> Result<String> {
        let server = self.server;
        let mut stream = TcpStream::connect_timeout(&server, LIMIT)
            .with_context(|| format!("connecting to {server}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let sent = self.content.bytes(0, 4);
        stream.write_all(&sent).context("sending")?;
        let mut echo = vec![0; sent.len()];
        stream
            .read_exact(&mut echo)
            .context("waiting for the echo")?;
        let _ = stream.shutdown(Shutdown::Both);
        ensure!(echo == sent, "the echo is not what was sent");
        Ok(format!("{} bytes to {server} and back", sent.len()))
    }

    fn spoil(&mut self) -> Result<()> {
        self.server.set_port(9);
        Ok(())
    }
}
