package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// Bounds of a restore.
const (
	// maxRestores bounds those at the same time on one server: each holds a whole
	// second state in memory, and only one can win.
	maxRestores = 1
	// partTimeout bounds one part's way into the log: a leader changes meanwhile.
	partTimeout = 15 * time.Second
	// commitTimeout bounds the command that puts the backup in place: every server
	// reads all of it, a million scopes in some seconds.
	commitTimeout = 5 * time.Minute
	// dropTimeout bounds taking back what was staged, which the leader does too.
	dropTimeout = 2 * time.Second
)

// restore puts a backup in the place of the state. Nothing comes into the log
// before all of the backup was read into a state of its own and that was checked;
// and nothing of it is served before one command, which is in the log or is not.
func (s *server) restore(w http.ResponseWriter, r *http.Request) {
	out, err := s.restored(r)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	s.log.Warn("a backup was restored", "incarnation", out.Incarnation, "index", out.Index, "from", r.RemoteAddr, "by", callerOf(r.Context()).String())
	s.answeredAt(r.Context(), out.Index)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}

func (s *server) restored(r *http.Request) (api.Restored, error) {
	o, err := restoreOptions(r)
	if err != nil {
		return api.Restored{}, err
	}
	asked, err := envelope(r.Context(), Mutation{Actor: r.Header.Get(api.HeaderActor), Reason: r.Header.Get(api.HeaderReason)}, nil)
	if err != nil {
		return api.Restored{}, err
	}
	if !take(&s.restores, maxRestores) {
		return api.Restored{}, &api.Error{Code: api.Limit, Detail: "this server restores a backup already; wait for that to end"}
	}
	defer s.restores.Add(-1)
	// Who cannot reach a leader shall not send a gigabyte first.
	now, err := s.read(r.Context(), ReadParams{Consistency: "linearizable"})
	if err != nil {
		return api.Restored{}, err
	}
	if err := callerOf(r.Context()).still(now); err != nil { // nor who is not admitted any more
		return api.Restored{}, err
	}
	if done, err := before(now, o); done || err != nil {
		return restoredAs(now, 0), err
	}
	f, err := s.putAside(r)
	if err != nil {
		return api.Restored{}, err
	}
	defer f.drop()
	if o.SHA256 != "" && o.SHA256 != hex.EncodeToString(f.sum) {
		return api.Restored{}, &api.Error{Code: api.Corrupt, Detail: fmt.Sprintf("the backup arrived with SHA-256 %x and was sent with %s; send it again", f.sum, o.SHA256)}
	}
	index, err := f.check()
	if err != nil {
		return api.Restored{}, err
	}
	if err := s.commitRestore(r.Context(), asked, f, o); err != nil {
		return api.Restored{}, err
	}
	return s.confirmRestored(r.Context(), index, o)
}

// before says what the state can tell of a restore before the backup is read:
// that it was done by an earlier try, or that it will be refused.
func before(st fsm.State, o api.RestoreOptions) (done bool, err error) {
	switch c := st.Cluster(); {
	case o.Incarnation == c.Incarnation && o.Tag == c.Tag:
		return true, nil
	case o.Incarnation <= c.Incarnation:
		return false, &api.Error{Code: api.StaleEpoch, Index: st.Index(), Detail: fmt.Sprintf(
			"a restore begins a new incarnation; the cluster is in %d and %d was given: give a number above any that it was ever in", c.Incarnation, o.Incarnation)}
	}
	return false, nil
}

func restoreOptions(r *http.Request) (o api.RestoreOptions, err error) {
	q := r.URL.Query()
	o = api.RestoreOptions{Tag: q.Get("incarnation_tag"), FromCluster: q.Get("from_cluster"), SHA256: q.Get("sha256")}
	if o.Incarnation, err = strconv.ParseUint(q.Get("incarnation"), 10, 64); err != nil || o.Incarnation == 0 || o.Incarnation > fsm.MaxIncarnation {
		return o, invalid("incarnation %s is not the number of a new incarnation; give one above any that the cluster was ever in, at most %d", shown(q.Get("incarnation")), uint64(fsm.MaxIncarnation))
	}
	if text := q.Get("all_nodes_known"); text != "" {
		if o.AllNodesKnown, err = strconv.ParseBool(text); err != nil {
			return o, invalid("all_nodes_known %s is neither true nor false", shown(text))
		}
	}
	if o.Tag == "" {
		o.Tag = rand.Text()
	}
	if err := checkRandom("incarnation_tag", o.Tag); err != nil {
		return o, err
	}
	if o.FromCluster != "" {
		return o, checkRandom("from_cluster", o.FromCluster)
	}
	return o, nil
}

// aside is a backup that has arrived: a file without a name, which ends with
// this process whatever becomes of that.
type aside struct {
	file *os.File
	size uint64
	sum  []byte
}

// copies is how many times a backup is written here before it is in place: aside, into the log, and into the next snapshot.
const copies = 3

// space refuses a backup that would fill the disk, on which the log stands too; size is 0 where it is not known, or some of
// it is written already.
func (s *server) space(size int64) error {
	disk := s.reg.Storage()
	if !disk.Low && (size <= 0 || disk.Limit == 0 || disk.Free >= disk.Limit+copies*uint64(size)) {
		return nil
	}
	return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("the disk of this server has %d MiB free, and a restore needs %d times the size of the backup (%d bytes) beyond %d MiB; make space, or ask another server",
		disk.Free>>20, copies, max(size, 0), disk.Limit>>20)}
}

// putAside takes the body. Each piece has to come within bodyReadTimeout.
func (s *server) putAside(r *http.Request) (*aside, error) {
	if err := s.space(r.ContentLength); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(s.spool, "restore-*.tmp")
	if err != nil {
		return nil, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the backup cannot be put aside: %v; see to the disk, or ask another server", err)}
	}
	_ = os.Remove(file.Name()) // drop tries again where an open file keeps its name
	f := &aside{file: file}
	sum := sha256.New()
	if err := s.receive(r, io.MultiWriter(file, sum), f); err != nil {
		f.drop()
		return nil, err
	}
	f.sum = sum.Sum(nil)
	return f, nil
}

func (s *server) receive(r *http.Request, to io.Writer, f *aside) error {
	conn := http.NewResponseController(replyOf(r.Context()).ResponseWriter)
	piece := make([]byte, 4*writePiece)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(bodyReadTimeout)) // not every writer of a test has one
		n, err := r.Body.Read(piece)
		f.size += uint64(n)
		if f.size > fsm.MaxBackup {
			return &api.Error{Code: api.TooLarge, Detail: fmt.Sprintf("the backup has more than %d bytes, which is the limit", uint64(fsm.MaxBackup))}
		}
		if low := s.space(0); low != nil {
			return low
		}
		if _, failed := to.Write(piece[:n]); failed != nil {
			return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the backup cannot be put aside: %v; see to the disk, or ask another server", failed)}
		}
		if errors.Is(err, io.EOF) {
			_ = conn.SetReadDeadline(time.Time{})
			return nil
		}
		if err != nil {
			return invalid("the backup broke off after %d bytes: %v; send it again", f.size, err)
		}
	}
}

func (f *aside) drop() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
}

// check loads the backup into a state of its own and returns the index of that.
// The state is not needed any more, and each server is about to hold two others.
func (f *aside) check() (index uint64, err error) {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	back, _, err := fsm.LoadBackup(f.file)
	if err != nil {
		return 0, &api.Error{Code: api.Corrupt, Detail: fmt.Sprintf("what was sent is no whole backup: %v; nothing was changed", err)}
	}
	return back.Index(), nil
}

// commitRestore brings the backup into the log and then in place. What it cannot
// end it takes back.
func (s *server) commitRestore(ctx context.Context, asked fsm.Envelope, f *aside, o api.RestoreOptions) error {
	id := rand.Text()
	err := s.stage(ctx, asked, id, f)
	if err == nil {
		err = s.proposeWithin(ctx, commitTimeout, asked, &fsm.Restore{Id: id, Bytes: f.size, Sha256: f.sum, Incarnation: o.Incarnation, Tag: o.Tag,
			Complete: o.AllNodesKnown, FromCluster: o.FromCluster})
	}
	if err != nil && api.CodeOf(err) != api.OutcomeUnknown {
		if e := s.proposeWithin(context.WithoutCancel(ctx), dropTimeout, asked, &fsm.DropBackup{Id: id}); e != nil {
			s.log.Debug("what was staged of a backup stays for now", "error", e)
		}
	}
	return err
}

func (s *server) stage(ctx context.Context, asked fsm.Envelope, id string, f *aside) error {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	part := make([]byte, fsm.StagePart)
	for offset := uint64(0); offset < f.size; {
		n, err := io.ReadFull(f.file, part[:min(uint64(len(part)), f.size-offset)])
		if err != nil {
			return fmt.Errorf("reading the backup that was put aside: %w", err)
		}
		err = s.proposeWithin(ctx, partTimeout, asked, &fsm.StageBackup{Id: id, Offset: offset, Data: part[:n]})
		if api.CodeOf(err) == api.OutcomeUnknown {
			// Parts alone change nothing that anybody is served.
			return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("the backup did not get into the log as a whole (%v); nothing was changed, restore again", err)}
		}
		if err != nil {
			return err
		}
		offset += uint64(n)
	}
	return nil
}

func (s *server) proposeWithin(ctx context.Context, limit time.Duration, asked fsm.Envelope, c fsm.Command) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	asked.Command = c
	_, err := s.reg.Propose(ctx, asked)
	return err
}

// confirmRestored reads the state again, at the leader's word: what is answered
// is in force.
func (s *server) confirmRestored(ctx context.Context, backup uint64, o api.RestoreOptions) (api.Restored, error) {
	st, err := s.read(ctx, ReadParams{Consistency: "linearizable"})
	if err != nil {
		return api.Restored{}, &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf("the backup was put in place, and that could not be confirmed: %v; look at the cluster's incarnation", err)}
	}
	if c := st.Cluster(); c.Incarnation != o.Incarnation || c.Tag != o.Tag {
		return api.Restored{}, &api.Error{Code: api.OutcomeUnknown, Index: st.Index(), Detail: fmt.Sprintf(
			"the backup was put in place as incarnation %d, and the cluster is in %d (%q) now: somebody has restored another one since", o.Incarnation, c.Incarnation, c.Tag)}
	}
	return restoredAs(st, backup), nil
}

func restoredAs(st fsm.State, backup uint64) api.Restored {
	c := st.Cluster()
	out := api.Restored{Index: st.Index(), Cluster: c.ID, Incarnation: c.Incarnation, Tag: c.Tag, BackupIndex: backup, Scopes: st.Scopes().Len(), Nodes: st.NodesLen()}
	if c.Hold {
		out.Hold = st.HoldText()
	}
	return out
}

type releaseInput struct {
	Mutation
	Body api.Release
}

func (s *server) release(ctx context.Context, in *releaseInput) (*appliedBody, error) {
	p, err := parsePrefix("prefix", in.Body.Prefix)
	if err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.Release{Prefix: p.Bytes(), SourceFenced: in.Body.SourceFenced, Reason: in.Body.Reason, Incarnation: in.Body.Incarnation})
}
