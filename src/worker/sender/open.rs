//! Opens a session on a slot.

use std::sync::Arc;

use super::handles::Handles;
use crate::{
    lease::Slot,
    smtp::{Endpoint, ServerSignal, Session, StepLimits, Why},
    worker::server::{Server, Unopened},
};

/// A session, or none and the slot as in [`super::live`].
pub(super) async fn open(handles: &Handles, server: &Arc<Server>, slot: Slot) -> Result<(Session, Slot), Option<Slot>> {
    let settings = server.settings();
    let access = match handles.files.access(&settings) {
        Ok(access) => access,
        Err(error) => {
            server.not_opened(&Unopened::Files(&error), &handles.files);
            slot.release();
            return Err(None);
        }
    };
    let close_grace = settings.close_grace.get();
    let endpoint = Endpoint {
        host: settings.host.to_string(),
        tls_name: settings.tls_server_name.as_ref().map(ToString::to_string),
        port: settings.port,
        tls: settings.tls,
        auth: settings.auth,
        roots: access.roots,
        helo: settings.helo_name.as_ref().map_or_else(|| handles.helo.clone(), ToString::to_string),
        limits: StepLimits::with_close_grace(close_grace),
        network: Arc::clone(&handles.network),
    };
    // A server that is slow to greet holds up neither the end of the process nor those whom the slot is taken for.
    let unwanted = async {
        tokio::select! {
            () = handles.stop.cancelled() => {}
            () = server.stop.cancelled() => {}
            () = slot.revoked() => {}
            () = slot.expired() => {}
        }
    };
    let connected = |local, remote| slot.note_connected(local, remote);
    let credentials = access.credentials.as_ref();
    let opened = Session::open_with(&endpoint, credentials, connected, unwanted, slot.expired()).await;
    match opened {
        Ok(session) => Ok((session, slot)),
        Err(error) => {
            if error.disposition.why != Why::Aborted {
                server.not_opened(&Unopened::Server(&error), &handles.files);
            }
            Err(server.account_for(slot, error.closed, error.disposition.signal == ServerSignal::TooManyConnections))
        }
    }
}
