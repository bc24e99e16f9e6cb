package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/snapshot"
)

const (
	// snapshotDir is where raft's file store keeps its snapshots, below the data directory.
	snapshotDir = "snapshots"

	// halfSnapshot ends the name of a snapshot that was never completed, or that is being removed.
	halfSnapshot = ".tmp"

	// metaName and stateName are the files of a snapshot, as raft's file store names them.
	metaName, stateName = "meta.json", "state.bin"

	// sumsName holds their SHA-256, in the form of sha256sum, which can check it too.
	sumsName = "SHA256SUMS"
)

// snapshots is raft's file store with a SHA-256 over every file. raft's own CRC64 leaves out meta.json, where a changed
// digit of the index would apply entries twice or never, and is looked at only when a snapshot is opened (RAFT trap 11).
//
// Any failure of the disk is fatal, as with the store.
type snapshots struct {
	inner *raft.FileSnapshotStore
	dir   string
	log   hclog.Logger
	fatal func(error)

	newest atomic.Uint64           // size of the newest one, in bytes
	remove func(path string) error // os.RemoveAll; in a test it stops half-way

	thinning sync.Mutex      // held by who removes old ones
	mu       sync.Mutex      // guards the rest
	verified map[string]bool // by settle, and not opened since
	starting bool            // raft has not started: it may load the newest one and no other
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// openSnapshots opens the snapshots below a data directory. fatal takes every failure of the disk after that.
func openSnapshots(dir string, log hclog.Logger, fatal func(error)) (*snapshots, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, math.MaxInt, log) // it removes none, see thin
	if err != nil {
		return nil, fmt.Errorf("opening snapshots in %s: %w; check the directory's owner", filepath.Join(dir, snapshotDir), err)
	}
	return &snapshots{inner: inner, dir: filepath.Join(dir, snapshotDir), log: log, fatal: fatal, remove: os.RemoveAll,
		verified: map[string]bool{}, starting: true}, nil
}

// started lets raft see all snapshots. Before that it sees one: if the state machine refuses that one, raft would load
// an older one without a word.
func (s *snapshots) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = false
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.inner.List()
	if err != nil {
		return nil, s.failed("listing snapshots", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starting && len(list) > 1 {
		list = list[:1]
	}
	return list, nil
}

// Open implements raft.SnapshotStore. It reads the files twice: a damaged snapshot must not reach another server.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	verified := s.verified[id]
	delete(s.verified, id)
	s.mu.Unlock()
	if !verified {
		if _, err := verifySnapshot(filepath.Join(s.dir, id)); err != nil {
			s.fatal(err)
			return nil, nil, err
		}
	}
	meta, r, err := s.inner.Open(id)
	if err != nil {
		return nil, nil, s.failed("opening snapshot "+id, err)
	}
	return meta, r, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.inner.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, s.failed(fmt.Sprintf("beginning a snapshot of index %d", index), err)
	}
	return newSealedSink(sink, s), nil
}

func (s *snapshots) failed(doing string, err error) error {
	err = fmt.Errorf("snapshots in %s: %s: %w; this server stops, check its disk before starting it again", s.dir, doing, err)
	s.fatal(err)
	return err
}

// sealedSink is a snapshot that is being written. The sums are written when raft's own store has put it in its place: a
// crash in between leaves a snapshot that is whole without them, see settle.
type sealedSink struct {
	raft.SnapshotSink
	store *snapshots
	sum   hash.Hash // of what was meant to be written, not of what the disk gives back
	size  uint64
	ended bool // raft closes or cancels what its state machine has closed or canceled
}

func newSealedSink(sink raft.SnapshotSink, s *snapshots) *sealedSink {
	return &sealedSink{SnapshotSink: sink, store: s, sum: sha256.New()}
}

// Write implements raft.SnapshotSink.
func (w *sealedSink) Write(b []byte) (int, error) {
	n, err := w.SnapshotSink.Write(b)
	w.sum.Write(b[:n])
	w.size += uint64(n)
	if err != nil {
		return n, w.store.failed("writing snapshot "+w.ID(), err)
	}
	return n, nil
}

// Close implements raft.SnapshotSink.
func (w *sealedSink) Close() error {
	if w.ended {
		return nil
	}
	w.ended = true
	if err := w.SnapshotSink.Close(); err != nil {
		return w.store.failed("completing snapshot "+w.ID(), err)
	}
	path := filepath.Join(w.store.dir, w.ID())
	meta, err := os.ReadFile(filepath.Join(path, metaName))
	if err == nil {
		err = writeDurably(path, sumsName, sums(meta, w.sum.Sum(nil)))
	}
	if err != nil {
		return w.store.failed("sealing snapshot "+w.ID(), err)
	}
	w.store.newest.Store(w.size)
	if err := w.store.thin(snapshotsKept); err != nil {
		return w.store.failed("removing old snapshots", err)
	}
	return nil
}

// thin removes all snapshots but the newest ones, so many. Raft's own store would remove files under the snapshot's name,
// and one that a crash left without some of them would be taken for damaged. So it loses its name first, durably; sweep
// removes what is left of it.
func (s *snapshots) thin(keep int) error {
	s.thinning.Lock()
	defer s.thinning.Unlock()
	names, err := s.names()
	if err != nil || len(names) <= keep {
		return err
	}
	for _, n := range names[keep:] {
		if err := os.Rename(filepath.Join(s.dir, n.id), filepath.Join(s.dir, n.id+halfSnapshot)); err != nil {
			return err
		}
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	for _, n := range names[keep:] {
		s.log.Info("removing an old snapshot", "name", n.id)
		if err := s.remove(filepath.Join(s.dir, n.id+halfSnapshot)); err != nil {
			return err
		}
	}
	return nil
}

// Cancel implements raft.SnapshotSink.
func (w *sealedSink) Cancel() error {
	if w.ended {
		return nil
	}
	w.ended = true
	if err := w.SnapshotSink.Cancel(); err != nil {
		return w.store.failed("giving up snapshot "+w.ID(), err)
	}
	return nil
}

// sums is the content of the file of sums.
func sums(meta, stateSum []byte) []byte {
	metaSum := sha256.Sum256(meta)
	return fmt.Appendf(nil, "%x  %s\n%x  %s\n", metaSum, metaName, stateSum, stateName)
}

// snapshotName is what the name of a snapshot's directory says of it.
type snapshotName struct {
	id          string
	term, index uint64
}

// parseSnapshotName reads "term-index-milliseconds".
func parseSnapshotName(name string) (n snapshotName, ok bool) {
	var ms uint64
	if _, err := fmt.Sscanf(name, "%d-%d-%d", &n.term, &n.index, &ms); err != nil || name != fmt.Sprintf("%d-%d-%d", n.term, n.index, ms) {
		return n, false
	}
	n.id = name
	return n, true
}

func (n snapshotName) newer(o snapshotName) bool {
	return n.term > o.term || n.term == o.term && (n.index > o.index || n.index == o.index && n.id > o.id)
}

// verifySnapshot reads a whole snapshot. The error is a *CorruptError, or the disk's. sealed says that it had sums; one
// that has none, since a crash came before they were written, is held against all else that it says of itself.
func verifySnapshot(path string) (sealed bool, err error) {
	corrupt := func(file, format string, args ...any) error {
		return &CorruptError{What: "snapshot", File: path, Record: file, Detail: fmt.Sprintf(format, args...),
			Do: "start the server again: it goes back to the snapshot before if the log reaches that, or says what to do"}
	}
	name, ok := parseSnapshotName(filepath.Base(path))
	if !ok {
		return false, corrupt("its name", "it is not term-index-milliseconds")
	}
	raw, err := readWhole(path, metaName)
	if err != nil {
		return false, corrupt(metaName, "%v", err)
	}
	sum, err := sumFile(filepath.Join(path, stateName))
	if err != nil {
		return false, corrupt(stateName, "%v", err)
	}
	have, err := readWhole(path, sumsName)
	switch want := sums(raw, sum); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return false, corrupt(sumsName, "%v", err)
	case !bytes.Equal(have, want):
		return false, corrupt(sumsName, "it has %s, computed %s", oneLine(have), oneLine(want))
	default:
		sealed = true
	}
	var meta raft.SnapshotMeta
	if err := json.Unmarshal(raw, &meta); err != nil {
		return sealed, corrupt(metaName, "it does not decode: %v", err)
	}
	if (snapshotName{meta.ID, meta.Term, meta.Index}) != name {
		return sealed, corrupt(metaName, "it is of snapshot %s, term %d, index %d", meta.ID, meta.Term, meta.Index)
	}
	if sealed {
		return true, nil
	}
	if err := throughFile(filepath.Join(path, stateName), func(r io.Reader) error {
		_, err := snapshot.Verify(r)
		return err
	}); err != nil {
		return false, corrupt(stateName, "%v", err)
	}
	return false, nil
}

func throughFile(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(read(f), f.Close())
}

// sumFile is the SHA-256 of a file.
func sumFile(path string) ([]byte, error) {
	sum := sha256.New()
	err := throughFile(path, func(r io.Reader) error {
		_, err := io.Copy(sum, r)
		return err
	})
	return sum.Sum(nil), err
}

// maxSmallFile bounds the two small files of a snapshot: the configuration of maxPeers servers is a few KiB.
const maxSmallFile = 1 << 20

func readWhole(dir, name string) ([]byte, error) {
	var raw []byte
	err := throughFile(filepath.Join(dir, name), func(r io.Reader) (err error) {
		raw, err = io.ReadAll(io.LimitReader(r, maxSmallFile))
		return err
	})
	return raw, err
}

// oneLine shows the sums in an error.
func oneLine(sums []byte) string {
	parts := bytes.Fields(sums)
	for i, p := range parts {
		if len(p) == hex.EncodedLen(sha256.Size) {
			parts[i] = p[:16]
		}
	}
	return fmt.Sprintf("%.120q", bytes.Join(parts, []byte(" ")))
}

// sweep removes snapshots that a crash left half-written, or half-removed; raft itself never does.
func (s *snapshots) sweep() error {
	entries, err := s.entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != halfSnapshot {
			continue
		}
		s.log.Warn("removing what a crash left of a snapshot", "name", e.Name())
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("removing what a crash left of snapshot %s: %w; remove it by hand", filepath.Join(s.dir, e.Name()), err)
		}
	}
	return nil
}

// names are those of the snapshots there are, readable or not, newest first.
func (s *snapshots) names() (names []snapshotName, err error) {
	entries, err := s.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || filepath.Ext(e.Name()) == halfSnapshot {
			continue // raft leaves its test of the directory's permissions there if it is killed in it
		}
		name, ok := parseSnapshotName(e.Name())
		if !ok {
			return nil, fmt.Errorf("%s is no snapshot: its name is not term-index-milliseconds; move it out of the way", filepath.Join(s.dir, e.Name()))
		}
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b snapshotName) int {
		if a.newer(b) {
			return -1
		}
		return 1
	})
	return names, nil
}

func (s *snapshots) entries() ([]os.DirEntry, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing snapshots in %s: %w; check the directory's owner", s.dir, err)
	}
	return entries, nil
}
