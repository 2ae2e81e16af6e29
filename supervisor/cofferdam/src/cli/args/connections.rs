//! What connections may use, and how a server ends.

use std::time::Duration;

use clap::Args;

use cofferdam_base::size::Bytes;
use cofferdam_http::server::ConnectionLimits;

/// What connections may use.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct ConnectionArgs {
    /// Bytes of request and response bodies that are held in memory at one time.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(in crate::cli) buffered: Bytes,

    /// How long the body of a request may take to arrive.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) body_timeout: Duration,

    /// How long a connection may take to send the headers of a request, and therefore how long it may be idle. Choose a longer
    /// time than the idle timeout of your load balancer, which can be 600s.
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = humantime::parse_duration)]
    header_timeout: Duration,

    /// Connections at one time. A further connection replaces the one that has been idle for longest; a connection in use is
    /// never closed for it.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_connections: usize,
}

impl ConnectionArgs {
    /// The limits on connections.
    pub(in crate::cli) fn bounds(&self) -> ConnectionLimits {
        let (connections, header_timeout) = (self.max_connections, self.header_timeout);
        ConnectionLimits { connections, header_timeout, ..ConnectionLimits::default() }
    }
}

/// How a server ends after SIGTERM.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// After SIGTERM or SIGINT: how long requests are still accepted while /readyz already fails, so that load balancers notice.
    #[arg(long = "drain-delay", value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) delay: Duration,

    /// After the drain delay: how long running requests may take to finish, and in a node the block that is being indexed.
    #[arg(long = "drain-timeout", value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) timeout: Duration,
}
