//! With the names of a real store.

use super::*;
use crate::respond;
use crate::zone::tests::{cluster, external, headless, object, slice};
use crate::zone::{Options, Published, Store};

struct Zone(Arc<Published>);

impl Cluster for Zone {
    fn lookup(&self, question: &Question, random: u32) -> Option<Local> {
        respond::lookup(&self.0.snapshot(), question, random)
    }

    fn namespace(&self, _: IpAddr) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn services_aliases_and_the_rest_of_the_world() {
    let server = upstream().await;
    let mut options = Options::new(parsed("cluster.local."));
    options.reverse = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
    let mut store = Store::new(options);
    let published = store.published().clone();
    store.set_namespace("default", true);
    store.set_service(&object("default/web"), Some(cluster("10.96.0.1 fd00:10:96::1", "http/80")));
    store.set_service(&object("default/old"), Some(cluster("10.96.0.2", "http/80")));
    store.set_service(&object("default/db"), Some(headless()));
    store.set_slice(&object("default/db-1"), Some(slice("default/db", "/5432", "10.0.0.1=db-0")));
    store.set_service(&object("default/out"), Some(external("a.test")));
    store.set_service(&object("default/in"), Some(external("web.default.svc.cluster.local")));
    store.set_synced();
    store.publish(1);
    let text_ = format!(
        ". {{\nkubernetes cluster.local in-addr.arpa ip6.arpa {{\nfallthrough in-addr.arpa ip6.arpa\n}}\nforward . {}\ncache\ndns64 {{\nprefix 64:ff9b:1:fffe::/96\ncluster_zones\n}}\n}}",
        server.at
    );
    let corefile = Corefile::parse("Corefile", &text_, &Disk::default()).unwrap();
    let world = World { cluster: Some(Arc::new(Zone(published))), ..world() };
    let chain = Arc::new(Chain::new(&corefile.servers[0], world, None).unwrap());
    #[rustfmt::skip]
    let rows = [
        (Rtype::A,    "web.default.svc.cluster.local.",  "10.96.0.1"),
        (Rtype::AAAA, "web.default.svc.cluster.local.",  "fd00:10:96::1"),
        (Rtype::AAAA, "old.default.svc.cluster.local.",  "64:ff9b:1:fffe::a60:2"),
        (Rtype::AAAA, "db-0.db.default.svc.cluster.local.", "64:ff9b:1:fffe::a00:1"),
        (Rtype::AAAA, "none.default.svc.cluster.local.", "NXDOMAIN"),
        (Rtype::A,    "out.default.svc.cluster.local.",  "out.default.svc.cluster.local.=a.test. 192.0.2.97"),
        (Rtype::AAAA, "out.default.svc.cluster.local.",  "out.default.svc.cluster.local.=a.test. 64:ff9b:1:fffe::c000:261"),
        (Rtype::A,    "in.default.svc.cluster.local.",   "in.default.svc.cluster.local.=web.default.svc.cluster.local. 10.96.0.1"),
        (Rtype::PTR,  "1.0.96.10.in-addr.arpa.",         "web.default.svc.cluster.local."),
        (Rtype::PTR,  "9.0.96.10.in-addr.arpa.",         "NOERROR"),
        (Rtype::A,    "b.test.",                         "192.0.2.98"),
    ];
    for (rtype, asked, want) in rows {
        assert_eq!(text(&ask(&chain, rtype, asked).await), want, "{rtype} {asked}");
    }
}
