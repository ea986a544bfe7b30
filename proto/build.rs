//! Generates the messages (and, with the feature `grpc`, the services) of `xds.fds`.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=xds.fds");
    let set = prost_types::FileDescriptorSet::decode(std::fs::read("xds.fds")?.as_slice())?;
    let mut config = prost_build::Config::new();
    // Ordered maps: equal messages have equal bytes in every process, so a version can be a hash of them.
    config.btree_map(["."]).enable_type_names().disable_comments(["."]).include_file("xds.rs");
    #[cfg(feature = "grpc")]
    tonic_prost_build::configure().compile_fds_with_config(set, config)?;
    #[cfg(not(feature = "grpc"))]
    config.compile_fds(set)?;
    Ok(())
}
