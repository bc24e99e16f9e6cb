package registry

import (
	"slices"

	"github.com/hashicorp/raft"
)

// servers is raft's newest configuration, which is what this server acts by. The list it was started with matters at the
// founding only.
func (r *Registry) servers() []raft.Server {
	return r.raft.GetConfiguration().Configuration().Servers
}

// Members counts the servers, as this one knows them, and says whether it votes itself.
func (r *Registry) Members() (voters, nonVoters int, votes bool) {
	servers := r.servers()
	voters = votersIn(servers)
	self, _ := find(servers, r.cfg.ID)
	return voters, len(servers) - voters, self.ID != "" && self.Suffrage == raft.Voter
}

// idAt returns the id of the server at an address, "" if none is known there.
func (r *Registry) idAt(addr string) string {
	for _, s := range r.servers() {
		if string(s.Address) == addr {
			return string(s.ID)
		}
	}
	return ""
}

// compareList says where the list this server was started with is not that of the cluster.
func (r *Registry) compareList() {
	servers := r.servers()
	if len(servers) == 0 || showServers(servers) == showPeers(r.cfg.Peers) {
		return
	}
	r.log.Info("the list of servers that was given is not the cluster's, which counts", "given", showPeers(r.cfg.Peers), "cluster", showServers(servers))
	if s, ok := find(servers, r.cfg.ID); ok && string(s.Address) != r.cfg.addrOf(r.cfg.ID) {
		r.log.Warn("the others know this server at another address, and do not find it; say: scope-registry cluster join "+r.cfg.ID+"="+r.cfg.addrOf(r.cfg.ID), "known", s.Address)
	}
}

func find(servers []raft.Server, id string) (raft.Server, bool) {
	at := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
	if at < 0 {
		return raft.Server{}, false
	}
	return servers[at], true
}

func votersOf(servers []raft.Server) []raft.Server {
	return slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
}

func votersIn(servers []raft.Server) int { return len(votersOf(servers)) }

func without(servers []raft.Server, id string) []raft.Server {
	return slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool { return string(s.ID) == id })
}

func idsOf(servers []raft.Server) (ids []string) {
	for _, s := range servers {
		ids = append(ids, string(s.ID))
	}
	return ids
}

func peersOf(servers []raft.Server) (out []Peer) {
	for _, s := range servers {
		out = append(out, Peer{ID: string(s.ID), Addr: string(s.Address)})
	}
	return out
}

func showServers(servers []raft.Server) string { return showPeers(peersOf(servers)) }
