//! Generates the messages (and, with the feature `grpc`, the services) of `xds.fds` and of `outrigger/control/v1`.

use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=xds.fds");
    println!("cargo:rerun-if-changed=outrigger");
    let mut set = FileDescriptorSet::decode(std::fs::read("xds.fds")?.as_slice())?;
    let control = protox::compile(protos(Path::new("outrigger/control/v1"))?, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("control.fds"), control.encode_to_vec())?;
    for file in control.file {
        if !set.file.iter().any(|other| other.name() == file.name()) {
            set.file.push(file);
        }
    }
    let mut config = prost_build::Config::new();
    // Ordered maps: equal messages have equal bytes in every process, so a version can be a hash of them.
    config.btree_map(["."]).enable_type_names().disable_comments(["."]).include_file("xds.rs");
    #[cfg(feature = "grpc")]
    tonic_prost_build::configure().compile_fds_with_config(set, config)?;
    #[cfg(not(feature = "grpc"))]
    config.compile_fds(set)?;
    Ok(())
}

/// The `.proto` files of a folder, in the order of their names.
fn protos(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
