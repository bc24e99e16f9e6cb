package peer

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

const (
	// maxServers bounds the servers in a configuration, far above what a cluster may have.
	maxServers = 64
	// maxServerText bounds an id or an address in one.
	maxServerText = maxString
	// maxSnapshotSize bounds the size that a snapshot is announced with, 1 TiB: the state is in memory, and the size would be
	// waited for in raft's main loop.
	maxSnapshotSize = 1 << 40
)

// errNotRafts is why a request is dropped.
var errNotRafts = errors.New("no server sends that; run the same version on all servers, and look who it is")

func notRafts(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errNotRafts)
}

// judge says what of a request would harm raft, nil if nothing.
func judge(command any, f Facts) error {
	if request, ok := command.(raft.WithRPCHeader); ok {
		if err := signed(request.GetRPCHeader()); err != nil {
			return err
		}
	}
	now := f.Term()
	switch cmd := command.(type) {
	case *raft.AppendEntriesRequest:
		return errors.Join(termWithin(cmd.Term, now), entriesInOrder(cmd, now))
	case *raft.RequestVoteRequest:
		return errors.Join(termWithin(cmd.Term, now), notTheLeader(cmd.RPCHeader, f))
	case *raft.RequestPreVoteRequest:
		return errors.Join(termWithin(cmd.Term, now), notTheLeader(cmd.RPCHeader, f))
	case *raft.InstallSnapshotRequest:
		return errors.Join(termWithin(cmd.Term, now), termWithin(cmd.LastLogTerm, now), snapshotInForm(cmd))
	case *raft.TimeoutNowRequest:
		return nil
	}
	return notRafts("a request of type %T", command)
}

// signed refuses a request in nobody's name: raft goes by other fields then, and believes more of it.
func signed(h raft.RPCHeader) error {
	if addr := string(h.Addr); len(h.ID) == 0 || addr == "" || shown(addr) != addr { // raft writes it to its log
		return notRafts("a request in the name of server %q at %q", shown(string(h.ID)), shown(addr))
	}
	return nil
}

// senderOf is the name in a request's header, which the port has compared with the connection's.
func senderOf(command any) string {
	if request, ok := command.(raft.WithRPCHeader); ok {
		return shown(string(request.GetRPCHeader().ID))
	}
	return ""
}

func termWithin(term, now uint64) error {
	if term > now && term-now > maxTermJump {
		return notRafts("term %d, and this server is in term %d", term, now)
	}
	return nil
}

// notTheLeader refuses a vote for the leader's address in another's name: raft lets the leader's address ask for votes
// at any time.
func notTheLeader(h raft.RPCHeader, f Facts) error {
	addr, id := f.Leader()
	if addr != "" && string(h.ID) != id && string(h.Addr) == addr {
		return notRafts("server %q asks for a vote for the address of the leader, %q", shown(string(h.ID)), id)
	}
	return nil
}

// entriesInOrder checks what raft takes for granted of the entries that a leader sends: they follow each other and what was
// before them, and are of kinds that it knows. They may be of a later term than the request: a leader that has just lost its
// office goes on for a moment, and by then has entries of the next one.
func entriesInOrder(cmd *raft.AppendEntriesRequest, now uint64) error {
	index, term := cmd.PrevLogEntry, cmd.PrevLogTerm
	for _, e := range cmd.Entries {
		switch {
		case e == nil:
			return notRafts("no entry after index %d", index)
		case e.Index != index+1 || e.Index == 0:
			return notRafts("entry %d after index %d", e.Index, index)
		case e.Term < term:
			return notRafts("entry %d of term %d, after one of term %d", e.Index, e.Term, term)
		}
		index, term = e.Index, e.Term
		switch e.Type {
		case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		case raft.LogConfiguration:
			if err := configurationInForm(e.Data); err != nil {
				return notRafts("configuration at index %d: %v", e.Index, err)
			}
		default: // raft ends the process when such is committed, and configurations of the old form name no ids
			return notRafts("entry %d of type %v", e.Index, e.Type)
		}
	}
	return termWithin(term, now)
}

func snapshotInForm(cmd *raft.InstallSnapshotRequest) error {
	if cmd.SnapshotVersion != raft.SnapshotVersionMax {
		return notRafts("a snapshot of version %d", cmd.SnapshotVersion)
	}
	if cmd.Size < 0 || cmd.Size > maxSnapshotSize {
		return notRafts("a snapshot of %d bytes, at most %d are taken", cmd.Size, int64(maxSnapshotSize))
	}
	if cmd.ConfigurationIndex > cmd.LastLogIndex {
		return notRafts("a snapshot up to index %d with a configuration of index %d", cmd.LastLogIndex, cmd.ConfigurationIndex)
	}
	if err := configurationInForm(cmd.Configuration); err != nil {
		return notRafts("the snapshot's configuration: %v", err)
	}
	return nil
}

// configurationInForm decodes a configuration, which raft does without a way to fail, and looks for what raft takes for granted.
func configurationInForm(data []byte) (err error) {
	if err := wellFormed(data); err != nil { // nor could the decoder fail, where nesting has no end
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%.200v", r)
		}
	}()
	servers := raft.DecodeConfiguration(data).Servers
	if len(servers) == 0 || len(servers) > maxServers {
		return fmt.Errorf("%d servers, 1 to %d are allowed", len(servers), maxServers)
	}
	ids, addrs, voters := map[raft.ServerID]bool{}, map[raft.ServerAddress]bool{}, 0
	for _, s := range servers {
		switch {
		case s.ID == "" || s.Address == "" || len(s.ID) > maxServerText || len(s.Address) > maxServerText:
			return fmt.Errorf("server %q at %q", shown(string(s.ID)), shown(string(s.Address)))
		case ids[s.ID] || addrs[s.Address]:
			return fmt.Errorf("server %q or its address %q is in it twice", shown(string(s.ID)), shown(string(s.Address)))
		case s.Suffrage == raft.Voter:
			voters++
		case s.Suffrage != raft.Nonvoter:
			return fmt.Errorf("server %q with suffrage %d", shown(string(s.ID)), s.Suffrage)
		}
		ids[s.ID], addrs[s.Address] = true, true
	}
	if voters == 0 {
		return errors.New("nobody votes")
	}
	return nil
}
