//! An ask from one actor of a node to another, with all that the runtime does for it.

use bytes::Bytes;
use futures::future::BoxFuture;
use troupe_protocol::id::ActorPath;

use super::ASK_WITHIN;
use crate::runtime::{
    Actor, ActorError, ChildSpec, Context, Deadline, Mailbox, Message, Reply, Root, SupervisorSpec, System,
    SystemConfig,
};

const MAILBOX_MESSAGES_MAX: u32 = 1_024;

#[derive(Debug, strum::IntoStaticStr)]
enum EchoMessage {
    Echo(Bytes, Reply<Bytes>),
}

impl Message for EchoMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

struct Echo;

impl Actor for Echo {
    type Message = EchoMessage;
    const KIND: &'static str = "echo";

    async fn handle(
        &mut self,
        EchoMessage::Echo(request, reply): EchoMessage,
        _: &Context<Self>,
    ) -> Result<(), ActorError> {
        reply.send(request);
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// An actor that answers with what it is asked.
pub(super) struct Local {
    mailbox: Mailbox<EchoMessage>,
    root: Root,
}

impl Local {
    pub(super) async fn start() -> Result<Self, ActorError> {
        let system = System::new(SystemConfig::default());
        let mailbox = Mailbox::new(&system, ActorPath::new("node/echo"), MAILBOX_MESSAGES_MAX);
        let child = ChildSpec::actor(mailbox.clone(), || Echo);
        let spec = SupervisorSpec::new(&system, ActorPath::new("node")).child(child);
        Ok(Self {
            mailbox,
            root: system.start(spec).await?,
        })
    }

    pub(super) fn asker(
        &self,
        request: Bytes,
    ) -> impl Fn() -> BoxFuture<'static, Result<usize, ActorError>> + Clone + Send + 'static {
        let mailbox = self.mailbox.clone();
        move || {
            let (mailbox, request) = (mailbox.clone(), request.clone());
            Box::pin(async move {
                let question = |reply| EchoMessage::Echo(request, reply);
                let answer = mailbox.ask(question, Deadline::within(ASK_WITHIN)).await?;
                Ok(answer.len())
            })
        }
    }

    pub(super) async fn stop(self) {
        self.root.shutdown().await;
    }
}
