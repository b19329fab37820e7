//! The committed code in `src/wire` is what the `.proto` files say.
//!
//! `UPDATE=1 cargo test -p muster-proto --test generated` writes it anew; no protoc is needed, here or for a build.

use prost::Message as _;
use std::path::Path;

#[test]
fn committed_code_matches_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["job", "agent", "enrol", "operator"].map(|name| format!("muster/v1/{name}.proto"));
    let descriptors = protox::compile(files, [root]).expect("the proto files compile");
    let out = tempfile::tempdir().expect("a temporary directory");
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::wire::codec::Codec")
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    let code = std::fs::read(out.path().join("muster.v1.rs")).expect("the generated file");
    for (name, fresh) in [("generated.rs", code), ("descriptor.bin", descriptors.encode_to_vec())] {
        let committed = root.join("src/wire").join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&committed, &fresh).expect("the file can be written");
        }
        let old = std::fs::read(&committed).unwrap_or_default();
        assert!(old == fresh, "src/wire/{name} is stale: UPDATE=1 cargo test -p muster-proto --test generated");
    }
}
