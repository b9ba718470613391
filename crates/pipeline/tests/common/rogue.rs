//! A dispatcher that does what it likes: orders a stage by hand, then leaves the data plane to the test.

use std::net::TcpStream;
use std::time::Duration;

use pipeline::transport::greet;
use pipeline::{NetworkConfig, Node};
use wire::control::{
    self, Crossing, DeploymentId, Hello, Purpose, Request, Response, Route, Spec, StageOrder,
};
use zenoh::Wait;

const TIMEOUT: Duration = Duration::from_secs(20);

pub const EPOCH: u32 = 5;

/// A member of the control plane.
pub struct Rogue {
    session: zenoh::Session,
    group: String,
}

impl Rogue {
    /// Enters the control plane and waits until it sees `node`.
    pub fn join(network: &NetworkConfig, node: &Node) -> Rogue {
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", "\"peer\""),
            ("listen/endpoints", "[\"tcp/127.0.0.1:0\"]"),
            ("scouting/multicast/interface", "\"127.0.0.1\""),
        ] {
            config.insert_json5(key, value).unwrap();
        }
        let session = zenoh::open(config).wait().unwrap();
        let key = format!("defer/{}/{}/alive/node/{}", control::VERSION, network.group, node.id());
        let presence = session.liveliness().declare_subscriber(key).history(true).wait().unwrap();
        presence.recv_timeout(TIMEOUT).unwrap().expect("the node is there");
        drop(presence);
        Rogue { session, group: network.group.clone() }
    }

    /// The dispatchers that have announced themselves in the group.
    pub fn dispatchers(&self) -> Vec<String> {
        let key = format!("defer/{}/{}/alive/dispatcher/*", control::VERSION, self.group);
        let replies = self.session.liveliness().get(key).timeout(TIMEOUT).wait().unwrap();
        let keys = replies.iter().filter_map(|reply| Some(reply.result().ok()?.key_expr().to_string()));
        keys.filter_map(|key| Some(key.rsplit('/').next()?.to_owned())).collect()
    }

    /// Asks a node with any bytes.
    pub fn ask_bytes(&self, node: &Node, bytes: Vec<u8>) -> Response {
        let key = format!("defer/{}/{}/ask/{}", control::VERSION, self.group, node.id());
        let replies = self.session.get(key).payload(bytes).timeout(TIMEOUT).wait().unwrap();
        let reply = replies.recv().expect("the node answers").into_result().expect("the node answers");
        control::decode(&reply.payload().to_bytes()).unwrap()
    }

    pub fn ask(&self, node: &Node, request: &Request) -> Response {
        self.ask_bytes(node, control::encode(request))
    }

    /// Brings a node to the point where its stage waits for connections.
    pub fn load(&self, node: &Node, order: StageOrder) {
        let id = order.deployment;
        let prepared = self.ask(node, &Request::Prepare(Box::new(order)));
        assert_eq!(prepared, Response::Prepared { missing: vec![] });
        let loaded = self.ask(node, &Request::Load(id));
        assert!(matches!(loaded, Response::Loaded { .. }), "{loaded:?}");
        assert_eq!(self.ask(node, &Request::Connect(id)), Response::Connected);
    }
}

/// The only stage of the model `lookup`: `ids`, i64 of any length, to `y`, f32 `[n, 8]`.
pub fn order(deployment: DeploymentId) -> StageOrder {
    let model = super::small_model("lookup");
    let stage = model.stage(0..model.operators().len()).unwrap();
    assert!(stage.weights.is_empty(), "its weights are small enough to lie in the skeleton");
    StageOrder {
        deployment,
        dispatcher: "rogue".to_owned(),
        epoch: EPOCH,
        model: "lookup".to_owned(),
        stage: 0,
        stages: 1,
        crossing: Crossing::ONLY,
        skeleton: stage.skeleton,
        weights: vec![],
        inputs: stage.inputs.iter().map(Spec::from).collect(),
        outputs: stage.outputs.iter().map(Spec::from).collect(),
        feeds: vec![0],
        routes: vec![Route::Computed(0)],
        codecs_in: vec![],
        codec_out: [0; 4],
        codecs_out: vec![],
        next: vec![],
        max_tensor_len: 1 << 10,
        memory: 1 << 20,
    }
}

/// Connects to a node's data address and greets it.
pub fn attach(
    node: &Node,
    deployment: DeploymentId,
    epoch: u32,
    purpose: Purpose,
) -> std::io::Result<TcpStream> {
    greet(connect(node), &Hello { deployment, epoch, stage: 0, replica: 0, from: 0, purpose }, TIMEOUT)
}

/// Connects to a node's data address.
pub fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.data_addresses()[0]).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}
