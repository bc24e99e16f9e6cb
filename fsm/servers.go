package fsm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// MaxServers bounds the records of servers, almost all of which have left: a
// replacement a day for eleven years. The oldest that left is forgotten then.
const MaxServers = 4096

// ServerPhase is how far a server is on its way into the cluster, or out of it.
type ServerPhase string

// The phases of a server. A server without a record is a founder.
const (
	ServerJoining ServerPhase = "joining" // into Raft's configuration, or there to another address
	ServerMember  ServerPhase = "member"
	ServerLeaving ServerPhase = "leaving" // out of Raft's configuration
	ServerGone    ServerPhase = "gone"    // for good: its id is not used again
)

// Server is what the log says of a server of the cluster. Who votes is for Raft's
// configuration to say; this is what it has to become, and whose data an id is.
type Server struct {
	ID       string
	Addr     string // host:port that the other servers dial
	Instance string // of the data directory; "" for a founder nobody knew it of
	Phase    ServerPhase
	Since    uint64 // log index of the phase
	// NoMajority is the admin's word, with ServerLeaving only, that it is to leave
	// although the voters that stay and are up are no majority.
	NoMajority bool
}

// Changing reports whether Raft's configuration has still to follow.
func (s Server) Changing() bool { return s.Phase == ServerJoining || s.Phase == ServerLeaving }

// Servers are the servers that joined, moved or left since the founding, by id.
func (s State) Servers() []Server { return slices.Clone(s.servers) }

// Server returns the record of a server. A founder has none before it moves or leaves.
func (s State) Server(id string) (Server, bool) {
	at, ok := s.serverAt(id)
	if !ok {
		return Server{}, false
	}
	return s.servers[at], true
}

// ServerChanging returns the server whose change is under way. There is never more than one.
func (s State) ServerChanging() (Server, bool) {
	at := slices.IndexFunc(s.servers, Server.Changing)
	if at < 0 {
		return Server{}, false
	}
	return s.servers[at], true
}

func (s State) serverAt(id string) (int, bool) {
	return slices.BinarySearchFunc(s.servers, id, func(s Server, id string) int { return strings.Compare(s.ID, id) })
}

// joinServer notes who is to join: also one that is leaving, which ends that. That
// raft can take it, and that the directory is the one it says, the leader has
// looked at before.
func (tx *txn) joinServer(c *JoinServer) *api.Error {
	if err := checkServer(c.GetId()); err != nil {
		return err
	}
	if err := checkAddr(c.GetAddr()); err != nil {
		return err
	}
	if err := checkRandom("instance", c.GetInstance()); err != nil {
		return err
	}
	if err := tx.noOtherChange(c.GetId()); err != nil {
		return err
	}
	was, known := tx.Server(c.GetId())
	switch {
	case known && was.Phase == ServerGone:
		return refuse(api.Exists, "server id %q is of a server that was removed, at index %d, and an id is used once: start the new server under another id, with an empty data directory", was.ID, was.Since)
	case known && was.Instance != "" && was.Instance != c.GetInstance():
		return refuse(api.Exists, "server %q joined with another data directory, and without it may not come back under this id: start it under another id, with an empty data directory, join that one, then: scope-registry cluster remove %s", was.ID, was.ID)
	case known && was.Phase != ServerLeaving && was.Addr == c.GetAddr():
		return nil
	}
	for _, other := range tx.servers {
		if other.ID != c.GetId() && other.Addr == c.GetAddr() && other.Phase != ServerGone {
			return refuse(api.Exists, "address %s is that of server %q; give each server its own", c.GetAddr(), other.ID)
		}
	}
	tx.putServer(Server{ID: c.GetId(), Addr: c.GetAddr(), Instance: c.GetInstance(), Phase: ServerJoining, Since: tx.at.Index})
	return nil
}

// removeServer notes who is to leave: also one that is joining, which ends that.
func (tx *txn) removeServer(c *RemoveServer) *api.Error {
	if err := checkServer(c.GetId()); err != nil {
		return err
	}
	if err := tx.noOtherChange(c.GetId()); err != nil {
		return err
	}
	was, known := tx.Server(c.GetId())
	switch {
	case known && was.Phase == ServerGone:
		return nil
	case known && was.Phase == ServerLeaving && (was.NoMajority || !c.GetAcceptNoMajority()):
		return nil
	case !known:
		if err := checkAddr(c.GetAddr()); err != nil {
			return err
		}
		if c.GetInstance() != "" {
			if err := checkRandom("instance", c.GetInstance()); err != nil {
				return err
			}
		}
		was = Server{ID: c.GetId(), Addr: c.GetAddr(), Instance: c.GetInstance()}
	}
	was.Phase, was.Since, was.NoMajority = ServerLeaving, tx.at.Index, c.GetAcceptNoMajority()
	tx.putServer(was)
	return nil
}

func (tx *txn) settleServer(c *SettleServer) *api.Error {
	was, ok := tx.Server(c.GetId())
	if !ok {
		return refuse(api.NotFound, "server %.64q has no record", c.GetId())
	}
	next, wants := ServerMember, ServerJoining
	if c.GetPhase() == string(ServerGone) {
		next, wants = ServerGone, ServerLeaving
	}
	if c.GetPhase() != string(next) || was.Phase != wants || was.Addr != c.GetAddr() {
		return refuse(api.WrongPhase, "server %q is %s at %s, so that it does not become %.20q at %.100q", was.ID, was.Phase, was.Addr, c.GetPhase(), c.GetAddr())
	}
	was.Phase, was.Since, was.NoMajority = next, tx.at.Index, false
	tx.putServer(was)
	return nil
}

// noOtherChange keeps changes of membership one at a time: the majorities before and
// after two at once need not overlap.
func (tx *txn) noOtherChange(id string) *api.Error {
	other, ok := tx.ServerChanging()
	if !ok || other.ID == id {
		return nil
	}
	giveUp := "cluster remove " + other.ID + ", which takes it out for good"
	if other.Phase == ServerLeaving {
		giveUp = "cluster join " + other.ID + "=" + other.Addr + ", by which it stays"
	}
	return refuse(api.MembersChanging, "server %q is %s since index %d, and servers change one at a time: wait until cluster status shows that it is over, or give it up with: scope-registry %s",
		other.ID, other.Phase, other.Since, giveUp)
}

func checkServer(id string) *api.Error {
	if err := scope.NodeID(id).Check(); err != nil {
		return refuse(api.Invalid, "server: %v", err)
	}
	return nil
}

func (tx *txn) putServer(s Server) {
	at, known := tx.serverAt(s.ID)
	next := slices.Clone(tx.servers)
	if known {
		next[at] = s
	} else {
		next = slices.Insert(next, at, s)
	}
	if len(next) > MaxServers {
		next = withoutOldest(next)
	}
	tx.servers = next
}

// withoutOldest forgets the server that left first.
func withoutOldest(all []Server) []Server {
	oldest := -1
	for i, s := range all {
		if s.Phase == ServerGone && (oldest < 0 || s.Since < all[oldest].Since) {
			oldest = i
		}
	}
	if oldest < 0 {
		return all
	}
	return slices.Delete(all, oldest, oldest+1)
}

func serverRecord(s Server) *pb.Record {
	return &pb.Record{Kind: &pb.Record_Server{Server: &pb.ServerRecord{Id: s.ID, Addr: s.Addr, Instance: s.Instance,
		Phase: string(s.Phase), Since: s.Since, AcceptNoMajority: s.NoMajority}}}
}

func loadServer(r *pb.ServerRecord) Server {
	return Server{ID: r.GetId(), Addr: r.GetAddr(), Instance: r.GetInstance(), Phase: ServerPhase(r.GetPhase()), Since: r.GetSince(),
		NoMajority: r.GetAcceptNoMajority()}
}

func (s State) checkServers() error {
	changing := ""
	for i, server := range s.servers {
		switch {
		case i > 0 && s.servers[i-1].ID >= server.ID:
			return fmt.Errorf("server %q comes after %q", server.ID, s.servers[i-1].ID)
		case server.Phase != ServerJoining && server.Phase != ServerMember && server.Phase != ServerLeaving && server.Phase != ServerGone:
			return fmt.Errorf("server %q is %q", server.ID, server.Phase)
		case server.NoMajority && server.Phase != ServerLeaving:
			return fmt.Errorf("server %q is %s, with a word about its leaving", server.ID, server.Phase)
		case server.Since > s.index:
			return fmt.Errorf("server %q is %s since index %d, after the state's %d", server.ID, server.Phase, server.Since, s.index)
		case server.Changing() && changing != "":
			return fmt.Errorf("servers %q and %q change at once", changing, server.ID)
		case server.Changing():
			changing = server.ID
		}
	}
	if len(s.servers) > MaxServers {
		return fmt.Errorf("%d servers have records, the limit is %d", len(s.servers), MaxServers)
	}
	return nil
}
