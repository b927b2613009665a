use std::fmt;
use std::time::Duration;

use pganalytics_core::secret::SecretString;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsCertificates,
};
use tokio::time::sleep;

use super::config::{RedisAddress, RedisConfig, RedisTls, RedisTopology};
use super::error::{Failure, RedisConfigError, refused_unrun};

/// Between two attempts at a cluster that is changing its shape.
const CLUSTER_PAUSE: Duration = Duration::from_millis(20);

/// How much of a replication id tells two apart.
const ERA_DIGITS: usize = 16;

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) config: RedisConfig,
    tls: Option<TlsCertificates>,
}

/// A connection that all callers share.
pub(super) struct Link {
    wire: Wire,
    prefix: String,
    pub(super) server: Option<Server>,
}

/// The one server at the other end.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) address: RedisAddress,
    /// Names the history of the data: a restart or a failover begins another one.
    era: String,
    /// Our connection's number there.
    client: i64,
}

/// As whom to appear, and which database to use.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    pub(super) login: Option<(&'a str, &'a SecretString)>,
    pub(super) database: u16,
}

#[derive(Clone)]
enum Wire {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connector {
    pub(super) fn new(config: RedisConfig) -> Result<Self, RedisConfigError> {
        config.check()?;
        let tls = config.tls.as_ref().map(certificates);
        if tls.is_some() && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The driver takes the default of the process. Another thread may have been faster.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let connector = Self { config, tls };
        connector
            .client(&RedisAddress::new("localhost", 0), connector.access())
            .map_err(|error| RedisConfigError::new("tls", error))?;
        Ok(connector)
    }

    /// Connects, and makes sure that nothing that was sent over the `former` connection takes effect from now on.
    pub(super) async fn connect(&self, former: Option<&Server>) -> Result<Link, Failure> {
        match &self.config.topology {
            RedisTopology::Single(address) => self.server(address, former).await,
            RedisTopology::Sentinel { sentinels, master, login } => {
                self.master_of(sentinels, master, login.as_ref(), former).await
            }
            RedisTopology::Cluster(nodes) => self.cluster(nodes).await,
        }
    }

    /// A connection for subscriptions, to the master `current` where there is one.
    pub(super) async fn subscriber(&self, current: Option<&RedisAddress>) -> Result<PubSub, Failure> {
        let nodes = match (&self.config.topology, current) {
            (_, Some(address)) | (RedisTopology::Single(address), None) => std::slice::from_ref(address),
            (RedisTopology::Cluster(nodes), None) => nodes,
            (RedisTopology::Sentinel { master, .. }, None) => {
                return Err(Failure::UnknownMaster(master.clone()));
            }
        };
        let mut last = Failure::Stopped;
        for node in nodes {
            match self.client(node, self.access())?.get_async_pubsub().await {
                Ok(subscriber) => return Ok(subscriber),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    pub(super) async fn server(
        &self,
        address: &RedisAddress,
        former: Option<&Server>,
    ) -> Result<Link, Failure> {
        let mut connection = self.open(address, self.access()).await?;
        let mut questions = redis::pipe();
        questions.cmd("INFO").arg("replication").cmd("CLIENT").arg("ID");
        let (replication, client): (String, i64) = questions.query_async(&mut connection).await?;
        if field(&replication, "role") != "master" {
            return Err(Failure::Replica(address.clone()));
        }
        let id = field(&replication, "master_replid");
        let era = id.get(..ERA_DIGITS).unwrap_or(id).to_owned();
        if let Some(former) = former.filter(|former| former.era == era) {
            kill(&mut connection, former.client).await?;
        }
        let prefix = format!("{}{era}:", self.config.prefix);
        let server = Server { address: address.clone(), era, client };
        Ok(Link { wire: Wire::Server(connection), prefix, server: Some(server) })
    }

    pub(super) async fn open(
        &self,
        address: &RedisAddress,
        access: Access<'_>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let limits = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        self.client(address, access)?.get_multiplexed_async_connection_with_config(&limits).await
    }

    async fn cluster(&self, nodes: &[RedisAddress]) -> Result<Link, Failure> {
        let nodes = nodes
            .iter()
            .map(|node| self.connection_info(node, self.access()))
            .collect::<Result<Vec<_>, _>>()?;
        // The driver would also send again what may have had its effect.
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(0)
            .connection_timeout(self.config.connect_timeout)
            .response_timeout(self.config.deadline);
        if let Some((username, password)) = self.access().login {
            builder = builder.username(username).password(password.expose());
        }
        if let Some(tls) = &self.tls {
            builder = builder.certs(tls.clone());
        }
        let connection = builder.build()?.get_async_connection().await?;
        Ok(Link { wire: Wire::Cluster(connection), prefix: self.config.prefix.clone(), server: None })
    }

    fn access(&self) -> Access<'_> {
        let username = self.config.username.as_deref().unwrap_or("default");
        let login = self.config.password.as_ref().map(|password| (username, password));
        Access { login, database: self.config.database }
    }

    fn client(&self, address: &RedisAddress, access: Access<'_>) -> Result<Client, RedisError> {
        let info = self.connection_info(address, access)?;
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        }
    }

    fn connection_info(
        &self,
        address: &RedisAddress,
        access: Access<'_>,
    ) -> Result<ConnectionInfo, RedisError> {
        let (host, port) = (address.host.clone(), address.port);
        let address = match self.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        let mut settings = RedisConnectionInfo::default().set_db(access.database.into());
        if let Some((username, password)) = access.login {
            settings = settings.set_username(username).set_password(password.expose());
        }
        Ok(address.into_connection_info()?.set_redis_settings(settings))
    }
}

impl Link {
    /// The name in Redis of something of this kind. What an earlier history of the data has left is not found by it.
    pub(super) fn name(&self, kind: char, key: &str) -> String {
        let mut name = String::with_capacity(self.prefix.len() + 2 + key.len());
        name.push_str(&self.prefix);
        name.push(kind);
        name.push(':');
        name.push_str(key);
        name
    }

    /// Sends a command; in a cluster to the node of the key `route`, or of its own first key.
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        command: Cmd,
        route: Option<&str>,
    ) -> Result<T, Failure> {
        match self.wire.clone() {
            Wire::Server(mut connection) => Ok(command.query_async(&mut connection).await?),
            Wire::Cluster(mut connection) => loop {
                let answer = match route {
                    Some(key) => ask_node_of(&mut connection, &command, key).await,
                    None => command.query_async(&mut connection).await,
                };
                match answer {
                    Err(error) if refused_unrun(&error) => sleep(CLUSTER_PAUSE).await,
                    answer => return Ok(answer?),
                }
            },
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

async fn ask_node_of<T: FromRedisValue>(
    connection: &mut ClusterConnection,
    command: &Cmd,
    key: &str,
) -> Result<T, RedisError> {
    let route = Route::with_key(key.as_bytes(), SlotAddr::Master);
    let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
    let value = connection.route_command(command.clone(), node).await?;
    Ok(T::from_redis_value(value.extract_error()?)?)
}

/// Ends a connection that a server may still have commands from, unless the user has no right to.
async fn kill(connection: &mut MultiplexedConnection, client: i64) -> Result<(), Failure> {
    let mut command = redis::cmd("CLIENT");
    command.arg("KILL").arg("ID").arg(client);
    match command.query_async::<redis::Value>(connection).await {
        Err(error) if error.is_io_error() => Err(error.into()),
        _ => Ok(()),
    }
}

fn certificates(tls: &RedisTls) -> TlsCertificates {
    let identity = tls.identity.as_ref().map(|(certificate, key)| ClientTlsConfig {
        client_cert: certificate.clone(),
        client_key: key.expose().as_bytes().to_vec(),
    });
    TlsCertificates { client_tls: identity, root_cert: tls.authorities.clone() }
}

/// A field of the reply to INFO.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
}
