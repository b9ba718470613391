//! Writes a pipeline into a model, as ONNX describes such: a device configuration, and the stage of each node.
//!
//! Called by whoever hands a plan to other tools. It changes nothing of what the model computes.

use std::ops::Range;

use crate::model::{Model, raise_ir_version};
use crate::proto::{DeviceConfigurationProto, NodeDeviceConfigurationProto};

/// The first IR version with device configurations.
const CONFIGURATIONS_IR: i64 = 11;

impl Model {
    /// The model with a device configuration of this name: the devices, in the order of the pipeline, and for every
    /// operator the `pipeline_stage` that it is in. `stages` are ranges of [`Model::operators`]. What is computed from
    /// constants alone belongs to every stage that reads it and gets none. A configuration of the same name is
    /// replaced; the IR version becomes 11 where it was lower.
    ///
    /// # Panics
    /// When a range reaches beyond the model's operators.
    pub fn annotate(&self, name: &str, devices: &[String], stages: &[Range<usize>]) -> Model {
        let mut model = self.clone();
        let proto = &mut model.proto;
        raise_ir_version(proto, CONFIGURATIONS_IR);
        proto.configuration.retain(|other| other.name() != name);
        proto.configuration.push(DeviceConfigurationProto {
            name: Some(name.to_owned()),
            num_devices: i32::try_from(devices.len()).ok(),
            device: devices.to_vec(),
        });
        let nodes =
            &mut proto.graph.as_mut().expect("a model without a graph is refused when it is read").node;
        for node in nodes.iter_mut() {
            node.device_configurations.retain(|other| other.configuration_id() != name);
        }
        for (stage, range) in stages.iter().enumerate() {
            for &node in &model.flow.operators[range.clone()] {
                nodes[node].device_configurations.push(NodeDeviceConfigurationProto {
                    configuration_id: Some(name.to_owned()),
                    sharding_spec: Vec::new(),
                    pipeline_stage: i32::try_from(stage).ok(),
                });
            }
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use crate::Model;
    use crate::zoo;

    #[test]
    fn every_operator_has_its_stage_and_nothing_else_changes() {
        let model = zoo::build("mobilenetv2", 0).unwrap();
        let operators = model.operators().len();
        let (devices, stages) = (["a".to_owned(), "b".to_owned()], [0..10, 10..operators]);
        // Again is the same: a configuration replaces one of its name.
        let once = model.annotate("plan", &devices, &stages);
        let annotated = once.annotate("plan", &devices, &stages);
        assert_eq!(once.proto, annotated.proto);
        let read = Model::from_bytes(annotated.to_bytes().unwrap()).unwrap();
        assert!(read.proto.ir_version() >= 11);
        assert_eq!(read.proto.configuration[0].device, devices);
        assert_eq!(read.proto.configuration[0].num_devices(), 2);
        for (i, &node) in read.flow.operators.iter().enumerate() {
            let [configuration] = &read.graph().node[node].device_configurations[..] else { panic!("{i}") };
            assert_eq!(configuration.configuration_id(), "plan");
            assert_eq!(configuration.pipeline_stage(), i32::from(i >= 10), "operator {i}");
        }
        let mut bare = read.proto.clone();
        bare.ir_version = model.proto.ir_version;
        bare.configuration.clear();
        bare.graph.as_mut().unwrap().node.iter_mut().for_each(|node| node.device_configurations.clear());
        assert!(bare == model.proto, "more than annotations changed");
    }
}
