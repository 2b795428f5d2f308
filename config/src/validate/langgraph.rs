//! A LangGraph platform and its profiles. In: a section. Out: its own values, and a [`Backend`] for each profile, so that
//! a profile's name is a backend's. Never: sends a key, a header or a client's
//! address to an origin that it was not meant for.

use super::section::Section;
use super::{backends, key, proxy};
use crate::address::Address;
use crate::allowed;
use crate::backend::{Api, Backend, Dialect, Kind, LangGraph};
use crate::reader::Reader;

/// Asks for what the platform wants beside the request.
pub(super) fn langgraph(reader: &mut Reader<'_>, section: &Section) -> Option<LangGraph> {
    let modes = vec!["messages-tuple".to_owned()];
    let stream_mode = reader.value(&section.key("stream_mode"), modes, allowed::words);
    let allowed = "set the assistant that answers when a request names none";
    let assistant_id =
        reader.required(section.path(), &section.key("assistant_id"), allowed, allowed::name)?;
    Some(LangGraph { assistant_id, stream_mode })
}

/// The backend of each profile; `platform` is the backend that they differ from, unless it is refused.
pub(super) fn profiles(
    reader: &mut Reader<'_>,
    section: &Section,
    platform: Option<&Backend>,
) -> Vec<Backend> {
    let path = section.key("profiles");
    let Some((platform, Kind::Api(api))) = platform.map(|platform| (platform, &platform.kind)) else {
        reader.pass_over_all(&path);
        return Vec::new();
    };
    let mut all = Vec::new();
    for name in backends::names(reader, &path) {
        let api = profile(reader, section, &Section::new(format!("{path}.{name}")), api);
        let name = format!("{}/{name}", platform.name);
        all.push(Backend { name, kind: Kind::Api(Box::new(api)), ..platform.clone() });
    }
    all
}

fn profile(reader: &mut Reader<'_>, section: &Section, own: &Section, platform: &Api) -> Api {
    let mut api = platform.clone();
    let key = own.key("api_base");
    api.base = reader.value(&key, api.base, allowed::base_address);
    let places = [&api.base, &platform.base].map(|base| Address::parse(base));
    let is_same_origin = matches!(places, [Some(a), Some(b)] if a.is_origin_of(&b));
    if !is_same_origin {
        api.headers.clear();
        api.x_forwarded_for = false;
        api.connection.socket = None;
        api.connection.proxy = proxy::proxy(reader, section, &api.base);
        if platform.key.is_some() && !key::is_said(reader, own) {
            let allowed = "another origin gets a key of its own: set one for this profile, or api_key = \"\"";
            reader.refuse(&[&key], allowed);
        }
    }
    let has_own_key = key::is_said(reader, own);
    let own_key = key::key(reader, own);
    if has_own_key {
        api.key = own_key;
    }
    if let Dialect::LangGraph(langgraph) = &mut api.dialect {
        let (assistant_id, modes) = (langgraph.assistant_id.clone(), langgraph.stream_mode.clone());
        langgraph.assistant_id = reader.value(&own.key("assistant_id"), assistant_id, allowed::name);
        langgraph.stream_mode = reader.value(&own.key("stream_mode"), modes, allowed::words);
    }
    api
}
