//! temporary
use graph::{Model, Route};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use tensor::{DType, Shape, Tensor};
fn evaluate(bytes: &[u8]) -> Result<Vec<Tensor>, String> {
    let mut child = Command::new("/tmp/venv/bin/python")
        .arg("/tmp/graphcheck/eval.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let mut out = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    if !child.wait().unwrap().success() {
        return Err("python".into());
    }
    let mut p = &out[..];
    let mut num = || {
        let (a, b) = p.split_at(8);
        p = b;
        u64::from_le_bytes(a.try_into().unwrap()) as usize
    };
    let n = num();
    let mut heads = vec![];
    for _ in 0..n {
        let dt = num();
        let r = num();
        let dims: Vec<usize> = (0..r).map(|_| num()).collect();
        heads.push((dt, dims));
    }
    Ok(heads
        .into_iter()
        .map(|(dt, dims)| {
            let dt = DType::from_code(dt as i32).unwrap();
            let s = Shape::new(&dims).unwrap();
            let len = dt.byte_len(s.elements().unwrap()).unwrap();
            let (a, b) = p.split_at(len);
            p = b;
            Tensor::from_bytes(dt, s, a).unwrap()
        })
        .collect())
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (path, out, n, max_live, simp) =
        (&a[1], Path::new(&a[2]), &a[3], a[4].parse::<usize>().unwrap(), a[5] == "1");
    let t = std::time::Instant::now();
    let mut m = match path.strip_prefix("zoo:") {
        Some(z) => graph::zoo::build(z, 1).unwrap(),
        None => Model::load(Path::new(path)).unwrap(),
    };
    println!(
        "load {:?} ops {} inputs {:?} outputs {:?}",
        t.elapsed(),
        m.operators().len(),
        m.inputs().iter().map(|i| i.to_string()).collect::<Vec<_>>(),
        m.outputs().iter().map(|i| i.to_string()).collect::<Vec<_>>()
    );
    let t = std::time::Instant::now();
    println!("hash {} {:?}", m.hash(), t.elapsed());
    std::fs::create_dir_all(out).unwrap();
    m.save(&out.join("whole.onnx")).unwrap();
    if simp {
        let t = std::time::Instant::now();
        println!("{:?} {:?}", m.simplify(&mut evaluate).unwrap(), t.elapsed());
        m.save(&out.join("simplified.onnx")).unwrap();
    }
    let t = std::time::Instant::now();
    let cuts = m.cuts(max_live);
    println!(
        "cuts {} ({:?}) of {} operators; by live {:?}",
        cuts.len(),
        t.elapsed(),
        m.operators().len(),
        (1..=max_live).map(|k| cuts.iter().filter(|c| c.live.len() == k).count()).collect::<Vec<_>>()
    );
    if a.len() > 6 {
        for c in &cuts {
            println!(
                "{} {} {:?}",
                c.position,
                m.operators()[c.position - 1].op_type,
                c.live.iter().map(|l| l.to_string()).collect::<Vec<_>>()
            );
        }
    }
    let total = m.operators().len();
    let mut pos: Vec<usize> = vec![0];
    if n == "all" {
        pos.extend(cuts.iter().map(|c| c.position));
    } else {
        let n: usize = n.parse().unwrap();
        for k in 1..n {
            let want = total * k / n;
            if let Some(c) = cuts.iter().min_by_key(|c| c.position.abs_diff(want)) {
                if c.position > *pos.last().unwrap() {
                    pos.push(c.position);
                }
            }
        }
    }
    pos.push(total);
    let mut meta = String::new();
    let t = std::time::Instant::now();
    for (i, w) in pos.windows(2).enumerate() {
        let s = m.stage(w[0]..w[1]).unwrap();
        std::fs::write(out.join(format!("stage_{i}.onnx")), s.to_bytes().unwrap()).unwrap();
        std::fs::write(out.join(format!("skeleton_{i}.onnx")), &s.skeleton).unwrap();
        for w in &s.weights {
            std::fs::write(out.join(w.hash.file_name()), &w.bytes).unwrap();
        }
        let names = |v: &[tensor::TensorSpec]| v.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let routes: Vec<String> = s
            .routes
            .iter()
            .map(|r| match r {
                Route::Computed(i) => format!("[0,{i}]"),
                Route::Passed(i) => format!("[1,{i}]"),
            })
            .collect();
        meta += &format!(
            "{{\"inputs\":{:?},\"outputs\":{:?},\"feeds\":{:?},\"routes\":[{}],\"skeleton\":{},\"weights\":{}}}\n",
            names(&s.inputs),
            names(&s.outputs),
            s.feeds,
            routes.join(","),
            s.skeleton.len(),
            s.weight_bytes()
        );
    }
    println!("stages {:?}", t.elapsed());
    std::fs::write(out.join("meta.ndjson"), meta).unwrap();
}
