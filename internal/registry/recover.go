package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// aliveTimeout bounds the look for each other server that may still run.
	aliveTimeout = 2 * time.Second

	// supersededDir is where a recovery puts the snapshots before it: raft would go back to one of them, silently, if
	// that of the recovery were damaged.
	supersededDir = "superseded"
)

// recovery is one that was begun: until it has ended the server does not start.
type recovery struct {
	Incarnation uint64 `json:"incarnation"`
	Tag         string `json:"incarnation_tag"`
	Cluster     string `json:"cluster"`
	Complete    bool   `json:"all_nodes_known"`
}

// Survivor is the data directory of a server that is stopped, the only one that is left of its cluster. OpenSurvivor
// makes it, Close lets go of it.
type Survivor struct {
	// Servers is the cluster as this server last knew it, itself included.
	Servers []Peer
	// Votes is whether this server votes by that: one that is being joined, or was removed, may lack most.
	Votes bool
	// Alive are those of the others at whose addresses something answers.
	Alive []Peer
	// LastIndex and LastTerm are of the last entry of its log, SnapshotIndex of the snapshot below; all in raft's count.
	LastIndex, LastTerm, SnapshotIndex uint64
	// State is what snapshot and log lead to, entries that were never committed included.
	State fsm.State
	// Damaged are the snapshots that cannot be read. One that reached beyond LastIndex held what is known to be lost.
	Damaged []DamagedSnapshot

	who   identity
	dir   *dataDir
	store *store
	snaps *snapshots
	// cut ends the recovery after a step, as a crash would; nil but in tests.
	cut func(step string) error
}

// DamagedSnapshot is a snapshot that cannot be read.
type DamagedSnapshot struct {
	Index uint64 // in raft's count, by its name
	Err   error
	term  uint64
}

// OpenSurvivor looks at a data directory and changes nothing of what it says: entries of the log's journal go to its file. It
// takes the directory's lock, checks every record, and reads snapshot and log to their end. The error says what is in the way;
// a damaged record is a *CorruptError.
func OpenSurvivor(ctx context.Context, path string, logger hclog.Logger) (_ *Survivor, err error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	s := &Survivor{}
	if s.who, err = readIdentity(path); err != nil {
		return nil, err
	}
	if s.store, err = openStore(path, func(error) {}); err != nil { // what it reports it also returns
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.store.Close())
		}
	}()
	if s.who, err = readIdentity(path); err != nil { // again, under the lock
		return nil, err
	}
	s.dir = &dataDir{path: path, who: s.who}
	if word := s.dir.condemned(); word != "" {
		return nil, &CorruptError{What: "data directory", File: path, Record: condemnedFile, Detail: "an earlier run left word: " + word,
			Do: "recover another server, or restore a backup into a new cluster (docs/operations.md)"}
	}
	if s.snaps, err = openSnapshots(path, logger.Named("snapshots"), func(error) {}); err != nil { // what it reports it also returns
		return nil, err
	}
	s.snaps.started()
	if err := s.read(); err != nil {
		return nil, err
	}
	if !s.began() && (len(s.Servers) < 2 || s.Self().ID == "") {
		return nil, fmt.Errorf("server %q is not one of several servers (%s): there is nothing to recover it from; start it", s.who.ID, showPeers(s.Servers))
	}
	s.lookAround(ctx)
	return s, nil
}

func readIdentity(dir string) (who identity, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err == nil {
		err = json.Unmarshal(raw, &who)
	}
	switch {
	case err != nil:
		return who, fmt.Errorf("%s is no data directory of a server: %w", dir, err)
	case who.Format != identityFormat:
		return who, fmt.Errorf("data directory %s has format version %d, this program knows version %d; run the program that wrote it", dir, who.Format, identityFormat)
	case who.Removed != "":
		return who, &RemovedError{ID: who.ID, Cluster: who.Cluster, Dir: dir, Said: who.Removed}
	case !who.Bootstrapped || who.Instance == "":
		return who, fmt.Errorf("data directory %s says that server %q never took part in a cluster: there is nothing to recover", dir, who.ID)
	}
	return who, nil
}

// read builds the state and finds the configuration. An older snapshot serves where the newest cannot be read, but only
// with a log that begins before its end: a gap is an error, never skipped.
func (s *Survivor) read() error {
	last, err := s.store.LastIndex()
	if err != nil {
		return err
	}
	names, err := s.snaps.names()
	if err != nil {
		return err
	}
	var conf raft.Configuration
	var unread []error
	found := len(names) == 0
	for _, name := range names {
		state, meta, err := s.load(name.id)
		if err != nil {
			s.Damaged = append(s.Damaged, DamagedSnapshot{name.index, err, name.term})
			unread = append(unread, fmt.Errorf("snapshot %s: %w", name.id, err))
			continue
		}
		found, conf = true, meta.Configuration
		s.State, s.LastIndex, s.LastTerm, s.SnapshotIndex = state, meta.Index, meta.Term, meta.Index
		break
	}
	if !found {
		return fmt.Errorf("no snapshot in %s can be read: %w; restore a backup into a new cluster (docs/operations.md)", s.dir.path, errors.Join(unread...))
	}
	for i := s.SnapshotIndex + 1; i <= last; i++ {
		if conf, err = s.replay(i, conf); err != nil {
			return errors.Join(append(unread, err)...)
		}
	}
	s.Servers = peersOf(conf.Servers)
	_, s.Votes = find(votersOf(conf.Servers), s.who.ID)
	return nil
}

func (s *Survivor) load(id string) (fsm.State, *raft.SnapshotMeta, error) {
	meta, from, err := s.snaps.Open(id) // checks it, too
	if err != nil {
		return fsm.State{}, nil, err
	}
	state, _, err := fsm.LoadBackup(from)
	return state, meta, errors.Join(err, from.Close())
}

func (s *Survivor) replay(index uint64, conf raft.Configuration) (raft.Configuration, error) {
	var entry raft.Log
	if err := s.store.GetLog(index, &entry); err != nil {
		return conf, fmt.Errorf("the log of %s has no readable entry %d, which follows what could be read: %w; restore a backup into a new cluster (docs/operations.md)", s.dir.path, index, err)
	}
	s.LastIndex, s.LastTerm = entry.Index, entry.Term
	switch entry.Type {
	case raft.LogCommand:
		next, _, _, err := s.State.ApplyEntry(entry.Index, entry.Term, entry.Data)
		if err != nil {
			return conf, err
		}
		s.State = next
	case raft.LogConfiguration:
		return raft.DecodeConfiguration(entry.Data), nil
	}
	return conf, nil
}

// ID is this server's id.
func (s *Survivor) ID() string { return s.who.ID }

// Unfinished is the incarnation of a recovery that was begun here and cut off, 0 if there was none. Recover then ends
// that one, whatever it is asked for.
func (s *Survivor) Unfinished() uint64 {
	if s.who.Recovery == nil {
		return 0
	}
	return s.who.Recovery.Incarnation
}

func (s *Survivor) began() bool { return s.who.Recovery != nil }

// Self is this server with its address.
func (s *Survivor) Self() Peer {
	for _, p := range slices.Concat(s.Servers, s.who.Peers) {
		if p.ID == s.who.ID {
			return p
		}
	}
	return Peer{}
}

// lookAround asks whether anything listens where the others did. That nothing does proves nothing: they may be behind
// a network that failed.
func (s *Survivor) lookAround(ctx context.Context) {
	for _, p := range s.Servers {
		if p.ID == s.who.ID {
			continue
		}
		d := net.Dialer{Timeout: aliveTimeout}
		if conn, err := d.DialContext(ctx, "tcp", p.Addr); err == nil {
			_ = conn.Close()
			s.Alive = append(s.Alive, p)
		}
	}
}

// Recover makes this server a cluster of its own, as a new incarnation of its state on hold, and under a new cluster id:
// the servers that are given up shall not be able to talk to it, should they come back. It may be cut off anywhere: the
// server does not start before Recover was called again and has ended.
func (s *Survivor) Recover(incarnation uint64, tag string, allNodesKnown bool) error {
	if s.who.Recovery == nil {
		r := &recovery{Incarnation: incarnation, Tag: tag, Cluster: randomHex(16), Complete: allNodesKnown}
		if _, err := s.restored(r); err != nil {
			return err // before anything is written
		}
		who := s.dir.identity()
		who.Recovery = r
		if err := s.dir.set(who); err != nil {
			return err
		}
		s.who = who
	}
	r, self := s.who.Recovery, s.Self()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"begun", s.snaps.sweep},
		{"snapshot", func() error { return s.write(r, self) }},
		{"log", s.forgetLog},
		{"older snapshots", s.forgetSnapshots},
	} {
		if err := step.do(); err != nil {
			return err
		}
		if s.cut != nil {
			if err := s.cut(step.name); err != nil {
				return err
			}
		}
	}
	who := s.dir.identity()
	who.Peers, who.Founders, who.Cluster, who.Recovery = []Peer{self}, map[string]string{who.ID: who.Instance}, r.Cluster, nil
	return s.dir.set(who)
}

// next is where the snapshot of the recovery stands: behind all others, damaged ones too, or raft would take one of them
// for the newest.
func (s *Survivor) next() snapshotName {
	at := snapshotName{index: s.LastIndex, term: s.LastTerm}
	for _, d := range s.Damaged {
		at.index, at.term = max(at.index, d.Index), max(at.term, d.term)
	}
	at.index++
	return at
}

// restored is the state that the recovered cluster begins with. It takes an index of its own in raft's log too, so that
// its snapshot is the newest whatever the clock says.
func (s *Survivor) restored(r *recovery) (fsm.State, error) {
	base := s.State.Index() - s.State.LogIndex()
	next, _, err := s.State.Restored(fsm.Restoration{Incarnation: r.Incarnation, Tag: r.Tag, Complete: r.Complete, TimeMS: time.Now().UnixMilli(),
		Index: s.next().index + base, Base: base, Cluster: r.Cluster})
	if err == nil && r.Incarnation > fsm.MaxIncarnation {
		err = &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("incarnation %d is above the limit of %d", r.Incarnation, uint64(fsm.MaxIncarnation))}
	}
	return next, err
}

// write writes the state as raft's newest snapshot, with a configuration of this server alone, unless it was written
// before this recovery was cut off.
func (s *Survivor) write(r *recovery, self Peer) (err error) {
	if c := s.State.Cluster(); c.Incarnation == r.Incarnation && c.Tag == r.Tag {
		return nil
	}
	next, err := s.restored(r)
	if err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport(raft.ServerAddress(self.Addr)) // only to write an address down
	conf := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(self.ID), Address: raft.ServerAddress(self.Addr)}}}
	at := s.next()
	sink, err := s.snaps.Create(raft.SnapshotVersionMax, at.index, at.term, conf, 1, transport)
	if err != nil {
		return fmt.Errorf("writing the snapshot of the recovery in %s: %w; check the disk, and recover again", s.dir.path, err)
	}
	if err := next.Encode(sink); err != nil {
		return errors.Join(fmt.Errorf("writing snapshot %s: %w; check the disk, and recover again", sink.ID(), err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("writing snapshot %s: %w; check the disk, and recover again", sink.ID(), err)
	}
	return syncDir(filepath.Join(s.dir.path, snapshotDir))
}

// forgetLog takes the log away, whose configurations name the others.
func (s *Survivor) forgetLog() error {
	first, err := s.store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.store.LastIndex()
	if err != nil {
		return err
	}
	if last == 0 {
		return nil
	}
	return s.store.DeleteRange(first, last)
}

// forgetSnapshots puts all but the newest aside.
func (s *Survivor) forgetSnapshots() error {
	list, err := s.snaps.List()
	if err == nil && len(list) == 0 {
		err = os.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("looking for the snapshot of the recovery in %s: %w; check the disk", s.dir.path, err)
	}
	aside := filepath.Join(s.dir.path, supersededDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(s.dir.path, snapshotDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == list[0].ID || strings.HasSuffix(e.Name(), halfSnapshot) {
			continue
		}
		if err := os.Rename(filepath.Join(s.dir.path, snapshotDir, e.Name()), filepath.Join(aside, e.Name())); err != nil {
			return fmt.Errorf("putting snapshot %s aside: %w; recover again", e.Name(), err)
		}
	}
	return errors.Join(syncDir(filepath.Join(s.dir.path, snapshotDir)), syncDir(aside), syncDir(s.dir.path))
}

// Close lets go of the data directory.
func (s *Survivor) Close() error { return s.store.Close() }
