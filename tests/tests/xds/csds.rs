//! A client of CSDS on the admin interface: one call of gRPC.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use outrigger_proto::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};
use prost::Message;
use tokio::net::UnixStream;

const METHOD: &str = "http://admin/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

/// What the proxy says of its resources.
pub(crate) fn fetch(admin: &Path) -> ClientStatusResponse {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = UnixStream::connect(admin).await.unwrap();
        let (mut client, connection) = h2::client::handshake(io).await.unwrap();
        let call = async {
            let request = http::Request::post(METHOD).header("content-type", "application/grpc").body(()).unwrap();
            let (response, mut body) = client.send_request(request, false).unwrap();
            let message = ClientStatusRequest::default().encode_to_vec();
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(message.len() as u32);
            framed.extend_from_slice(&message);
            body.send_data(framed.freeze(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            let mut received = BytesMut::new();
            while let Some(data) = body.data().await {
                let data: Bytes = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                received.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["grpc-status"], "0", "{trailers:?}");
            ClientStatusResponse::decode(&received[5..]).unwrap()
        };
        tokio::select! {
            response = call => response,
            _ = connection => panic!("the connection ends before the answer"),
        }
    })
}
