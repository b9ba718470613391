//! A model that takes pixels: the bytes of a photo instead of the numbers made from them, a quarter of the size.
//!
//! Called by whoever has photos and knows how they become the model's input. The nodes put in front compute what the
//! caller would have computed; an engine that divides by multiplying with the inverse rounds once more.

use tensor::{DType, Dim};

use crate::model::Model;
use crate::proto::tensor_proto::DataType;
use crate::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
    type_proto,
};

/// The first version of ONNX's operators in which two inputs of other shapes are broadcast by themselves.
const BROADCASTS: i64 = 7;

impl Model {
    /// The model with an input of bytes, for one whose only input is `f32` of rank 4: each value is
    /// `(byte - mean) / std`, with a mean and a std for each index of `axis`, the channels. The input's name becomes
    /// another. `None` for a model with other inputs, with other sizes, or from before operators broadcast.
    pub fn with_pixel_input(&self, mean: &[f32], std: &[f32], axis: usize) -> Option<Model> {
        let [input] = self.inputs() else { return None };
        let dims = input.dims.as_ref().filter(|dims| dims.len() == 4 && input.dtype == DType::F32)?;
        let fits = |values: &[f32]| dims.get(axis) == Some(&Dim::Fixed(values.len()));
        let opset = self.proto.opset_import.iter().find(|opset| opset.domain().is_empty())?;
        if !fits(mean) || !fits(std) || opset.version() < BROADCASTS {
            return None;
        }
        let mut proto = self.proto.clone();
        let graph = proto.graph.as_mut()?;
        let mut front = Front {
            taken: self,
            graph,
            value: input.name.clone(),
            steps: Vec::new(),
            dims: dims.len(),
            axis,
        };
        // From the model's input backwards.
        if std.iter().any(|&std| std != 1.0) {
            front.put("Div", Some(std));
        }
        if mean.iter().any(|&mean| mean != 0.0) {
            front.put("Sub", Some(mean));
        }
        front.put("Cast", None);
        front.finish(&input.name)?;
        Model::from_proto(proto).ok()
    }
}

/// What is put in front of a model, from the model's input backwards.
struct Front<'a> {
    taken: &'a Model,
    graph: &'a mut GraphProto,
    /// What the next step gives.
    value: String,
    steps: Vec<NodeProto>,
    dims: usize,
    axis: usize,
}

impl Front<'_> {
    fn put(&mut self, op_type: &str, constant: Option<&[f32]>) {
        let before = self.free_name(&format!("pixels_{}", op_type.to_lowercase()));
        let mut input = vec![before.clone()];
        if let Some(values) = constant {
            let name = self.free_name(&format!("pixels_{}_by", op_type.to_lowercase()));
            let mut dims = vec![1; self.dims];
            dims[self.axis] = values.len() as i64;
            self.graph.initializer.push(TensorProto {
                name: Some(name.clone()),
                data_type: Some(DataType::Float.into()),
                dims,
                raw_data: Some(
                    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
                ),
                ..TensorProto::default()
            });
            input.push(name);
        }
        let to = AttributeProto {
            name: Some("to".to_owned()),
            r#type: Some(AttributeType::Int.into()),
            i: Some(DataType::Float as i64),
            ..AttributeProto::default()
        };
        self.steps.push(NodeProto {
            input,
            output: vec![std::mem::replace(&mut self.value, before)],
            op_type: Some(op_type.to_owned()),
            attribute: if op_type == "Cast" { vec![to] } else { Vec::new() },
            ..NodeProto::default()
        });
    }

    /// The last value that is needed becomes the input of the graph.
    fn finish(self, name: &str) -> Option<()> {
        let position = self.graph.input.iter().position(|input| input.name() == name)?;
        let input: &mut ValueInfoProto = &mut self.graph.input[position];
        input.name = Some(self.value);
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut()?.value.as_mut() else {
            return None;
        };
        tensor.elem_type = Some(DataType::Uint8.into());
        self.graph.node.splice(0..0, self.steps.into_iter().rev());
        Some(())
    }

    fn free_name(&self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while self.taken.flow.id(&name).is_some() {
            name.push('_');
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use tensor::{DType, Dim};

    use crate::zoo;

    #[test]
    fn the_input_becomes_bytes_and_the_rest_stays() {
        let model = zoo::build("mobilenetv2", 0).unwrap();
        let pixels = model.with_pixel_input(&[1.0, 2.0, 3.0], &[4.0; 3], 1).unwrap();
        let (before, after) = (&model.inputs()[0], &pixels.inputs()[0]);
        assert_eq!((before.dtype, after.dtype), (DType::F32, DType::U8));
        assert_eq!(before.dims, after.dims);
        assert_eq!(model.outputs(), pixels.outputs());
        let front: Vec<&str> =
            pixels.operators()[..3].iter().map(|operator| operator.op_type.as_str()).collect();
        assert_eq!(front, ["Cast", "Sub", "Div"]);
        assert_eq!(pixels.operators()[3..], model.operators()[..]);
        let plain = model.with_pixel_input(&[0.0; 3], &[1.0; 3], 1).unwrap();
        assert_eq!(plain.operators().len(), model.operators().len() + 1);
    }

    #[test]
    fn a_model_that_takes_something_else_has_no_such_form() {
        let image = zoo::build("mobilenetv2", 0).unwrap();
        assert_eq!(image.inputs()[0].dims.as_ref().unwrap()[1], Dim::Fixed(3));
        assert!(image.with_pixel_input(&[0.0; 3], &[1.0; 3], 3).is_none(), "224 columns are no channels");
        assert!(image.with_pixel_input(&[0.0; 1], &[1.0; 3], 1).is_none());
        let bytes = image.with_pixel_input(&[0.0; 3], &[1.0; 3], 1).unwrap();
        assert!(bytes.with_pixel_input(&[0.0; 3], &[1.0; 3], 1).is_none(), "bytes already");
        assert!(zoo::build("bert-base", 0).unwrap().with_pixel_input(&[0.0; 3], &[1.0; 3], 1).is_none());
    }
}
