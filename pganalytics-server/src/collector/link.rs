//! The collector's standing with the server: registered or not, with which token.

use std::sync::Arc;

use pganalytics_core::clock::Clock;
use pganalytics_core::secret::SecretString;
use uuid::Uuid;

use super::batch::{Batch, VERSION};
use super::client::{CallError, ClientError, ConfigText, Pushed, Registration, ServerClient};
use super::config::ServerSection;
use super::identity::{Credentials, StateError, StateFolder};

/// Who this node says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub id: Uuid,
    pub name: String,
    pub hostname: String,
    pub address: Option<String>,
}

/// Makes calls in the name of a registered collector, and registers it when it is not.
#[derive(Debug)]
pub(super) struct Link {
    section: ServerSection,
    client: ServerClient,
    state: Arc<StateFolder>,
    node: Node,
    secret: Option<SecretString>,
    credentials: Option<Credentials>,
    /// The credentials on disk are older than those in use.
    unsaved: bool,
    clock: Arc<dyn Clock>,
}

/// A call could not be made, or failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nothing can be sent until somebody configures a secret.
    #[error("the server knows no token of this collector, and no `server.registration_secret` is configured")]
    NoSecret,
    /// The token could not be changed for another.
    #[error("token refresh failed: {0}")]
    Refresh(#[source] CallError),
    #[error("registration failed: {0}")]
    Registration(#[source] CallError),
}

impl Link {
    /// Takes up the stored credentials; no request yet.
    ///
    /// # Errors
    /// When the stored state cannot be read, or a certificate file cannot be used.
    pub(super) fn open(
        section: &ServerSection,
        secret: Option<SecretString>,
        state: Arc<StateFolder>,
        node: Node,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LinkOpenError> {
        let credentials = state.credentials()?;
        let client = client_for(section, credentials.as_ref())?;
        Ok(Self { section: section.clone(), client, state, node, secret, credentials, unsaved: false, clock })
    }

    /// The id under which pushes are made: the server's, or the node's own before the first registration.
    pub(super) fn collector_id(&self) -> String {
        self.credentials
            .as_ref()
            .map_or_else(|| self.node.id.to_string(), |credentials| credentials.collector_id.clone())
    }

    /// Registers or refreshes when it is time to. A token that still works is kept when its refresh fails.
    ///
    /// # Errors
    /// When there is no token to go on with.
    pub(super) async fn prepare(&mut self) -> Result<(), LinkError> {
        self.save();
        match &self.credentials {
            None => self.register().await,
            Some(credentials) if credentials.wants_refresh(self.clock.now()) => match self.refresh().await {
                Err(LinkError::Refresh(error @ (CallError::Transport(_) | CallError::Later { .. }))) => {
                    tracing::debug!(%error, "the token could not be refreshed yet");
                    Ok(())
                }
                other => other,
            },
            Some(_) => Ok(()),
        }
    }

    /// Sends a batch that names this collector, once more after a renewal when the token is not accepted.
    ///
    /// # Errors
    /// When it was not taken, or nobody knows.
    pub(super) async fn push(&mut self, batch: &Batch) -> Result<Pushed, LinkError> {
        match self.client.push(batch, self.token()?).await {
            Err(CallError::Unaccepted(refusal)) => {
                tracing::info!(%refusal, "the token is not accepted, asking for another");
                self.refresh().await?;
                Ok(self.client.push(batch, self.token()?).await?)
            }
            other => Ok(other?),
        }
    }

    /// Asks for this collector's configuration.
    ///
    /// # Errors
    /// When the server gives no answer that can be used.
    pub(super) async fn pull_config(&mut self) -> Result<Option<ConfigText>, LinkError> {
        let id = self.collector_id();
        match self.client.config(&id, self.token()?).await {
            Err(CallError::Unaccepted(_)) => {
                self.refresh().await?;
                let id = self.collector_id();
                Ok(self.client.config(&id, self.token()?).await?)
            }
            other => Ok(other?),
        }
    }

    fn token(&self) -> Result<&SecretString, LinkError> {
        self.credentials.as_ref().map(|credentials| &credentials.token).ok_or(LinkError::NoSecret)
    }

    /// Changes the token, and registers anew when the server does not know it any more.
    async fn refresh(&mut self) -> Result<(), LinkError> {
        let Some(credentials) = &self.credentials else { return self.register().await };
        match self.client.refresh(&credentials.token).await {
            Ok(refreshed) => {
                let credentials = Credentials {
                    token: refreshed.token,
                    obtained_at: self.clock.now(),
                    expires_at: refreshed.expires_at,
                    ..credentials.clone()
                };
                self.keep(credentials);
                Ok(())
            }
            Err(CallError::Unaccepted(refusal)) => {
                tracing::warn!(%refusal, "the token cannot be refreshed, registering anew");
                self.register().await
            }
            Err(CallError::Later { answer, .. }) if answer.status == 404 => {
                tracing::warn!(%answer, "the server does not know this collector, registering anew");
                self.register().await
            }
            Err(error) => Err(LinkError::Refresh(error)),
        }
    }

    async fn register(&mut self) -> Result<(), LinkError> {
        let secret = self.secret.as_ref().ok_or(LinkError::NoSecret)?;
        let registration = Registration {
            name: &self.node.name,
            hostname: &self.node.hostname,
            version: VERSION,
            address: self.node.address.as_deref(),
            node_id: self.node.id,
        };
        let registered =
            self.client.register(&registration, secret).await.map_err(LinkError::Registration)?;
        let credentials = Credentials {
            collector_id: registered.collector_id.unwrap_or_else(|| self.node.id.to_string()),
            token: registered.token,
            obtained_at: self.clock.now(),
            expires_at: registered.expires_at,
            certificate: registered.certificate,
            private_key: registered.private_key,
        };
        tracing::info!(collector_id = credentials.collector_id, "registered");
        match client_for(&self.section, Some(&credentials)) {
            Ok(client) => self.client = client,
            Err(error) => tracing::warn!(%error, "going on without the client certificate"),
        }
        self.keep(credentials);
        Ok(())
    }

    /// Uses new credentials. They count even when they cannot be stored; storing is tried again.
    fn keep(&mut self, credentials: Credentials) {
        self.credentials = Some(credentials);
        self.unsaved = true;
        self.save();
    }

    fn save(&mut self) {
        if let (true, Some(credentials)) = (self.unsaved, &self.credentials) {
            match self.state.store_credentials(credentials) {
                Ok(()) => self.unsaved = false,
                Err(error) => {
                    tracing::error!(%error, "the new token cannot be stored, keeping the old one on disk")
                }
            }
        }
    }
}

/// The link cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkOpenError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A client that shows the certificate which came with the credentials, when both halves are there.
pub(super) fn client_for(
    section: &ServerSection,
    credentials: Option<&Credentials>,
) -> Result<ServerClient, ClientError> {
    let identity = credentials.filter(|_| section.url.scheme() == "https").and_then(|credentials| {
        Some((credentials.certificate.as_deref()?, credentials.private_key.as_ref()?))
    });
    ServerClient::new(section, identity)
}
