package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// saved is a state with the nodes a and b, and app: of a, as cluster c1.
func saved() fsm.State {
	st := fsm.State{}
	for _, c := range []fsm.Command{&fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "10.0.0.1:1"}, &fsm.SetNode{Id: "b", Addr: "10.0.0.2:1"},
		&fsm.Declare{Prefix: []byte("app:"), Writer: "a"}} {
		st, _, _ = st.Apply(fsm.At{Index: st.Index() + 1}, fsm.Envelope{Command: c})
	}
	return st
}

func savedBackup() string {
	var b bytes.Buffer
	_ = saved().EncodeBackup(&b, 1) // a buffer takes all
	return b.String()
}

// held has the cluster hold since a restore, and node a has met the incarnation.
func (e exchange) held() exchange {
	e.before = func(b *bench) {
		b.restores("?incarnation=2&incarnation_tag=t2", savedBackup())
		b.propose(&fsm.OpenSession{Node: "a", Session: "s", Identity: "disk", TokenHash: make([]byte, fsm.TokenHashLen), Incarnation: 2, IncarnationTag: "t2"})
	}
	return e
}

func (b *bench) restores(query, backup string) (out api.Restored) {
	b.t.Helper()
	b.ok(200, &out, "POST", "/v1/restore"+query, backup)
	return out
}

func TestRestore(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	b.populated()
	w, err := b.reg.Watch(0)
	if err != nil {
		t.Fatal(err)
	}
	backup := savedBackup()
	sum := sha256.Sum256([]byte(backup))
	query := "?incarnation=5&incarnation_tag=t5&all_nodes_known=true&sha256=" + hex.EncodeToString(sum[:])
	before := b.reg.State().Index()
	got := b.restores(query, backup)
	st := b.reg.State()
	if got.Incarnation != 5 || got.Tag != "t5" || got.Cluster != "c1" || got.Index != st.Index() || got.Index <= before || got.BackupIndex != saved().Index() ||
		got.Scopes != 1 || got.Nodes != 2 || !strings.Contains(got.Hold, "not yet: a, b") {
		t.Errorf("%+v", got)
	}
	if id, _ := st.Staged(); id != "" || st.Moves().RunningLen() != 0 || !st.Cluster().Complete {
		t.Errorf("%q is staged, %+v", id, st.Cluster())
	}
	for err == nil {
		_, err = w.Next(t.Context())
	}
	if api.CodeOf(err) != api.Compacted {
		t.Errorf("the watch ended with %v", err)
	}
	asked := len(b.reg.Asked)
	if again := b.restores(query, backup); again.Index != got.Index || len(b.reg.Asked) != asked {
		t.Errorf("the same restore again: %+v, %d proposals", again, len(b.reg.Asked)-asked)
	}
	contains(t, b.refused(api.StaleEpoch, "POST", "/v1/restore?incarnation=5&incarnation_tag=other", backup).Detail, "the cluster is in 5")
	if left := b.reg.Last().Actor; !strings.HasPrefix(left, "anonymous@") {
		t.Errorf("asked by %q", left)
	}
}

// Whatever is wrong with a backup, nothing of it comes into the log.
func TestRestoreOfWhatIsNoBackup(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	before := b.reg.State()
	good := savedBackup()
	refused := func(body string) {
		t.Helper()
		contains(t, b.refused(api.Corrupt, "POST", "/v1/restore?incarnation=2", body).Detail, "nothing was changed")
	}
	for i := range len(good) {
		bad := []byte(good)
		bad[i] ^= 0x10
		refused(string(bad))
		if i > 0 {
			refused(good[:i])
		}
	}
	refused(good + "x")
	b.refused(api.Corrupt, "POST", "/v1/restore?incarnation=2&sha256=00", good)
	for _, query := range []string{"", "?incarnation=0", "?incarnation=x", "?incarnation=9007199254740992", "?incarnation=2&all_nodes_known=x",
		"?incarnation=2&incarnation_tag=%20", "?incarnation=2&from_cluster=%20", "?incarnation=2&tag=t"} {
		b.refused(api.Invalid, "POST", "/v1/restore"+query, good)
	}
	if st := b.reg.State(); st.Index() != before.Index() || st.Hash() != before.Hash() {
		t.Errorf("the state went from %d to %d", before.Index(), st.Index())
	}
	if left, err := os.ReadDir(b.h.(*server).spool); b.h.(*server).spool != "" && (err != nil || len(left) > 0) {
		t.Errorf("%v, %v is left behind", left, err)
	}
}

// What was staged and cannot be put in place is taken back.
func TestRestoreIsTakenBack(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "other"})
	contains(t, b.refused(api.Invalid, "POST", "/v1/restore?incarnation=2", savedBackup()).Detail, "--from-cluster")
	if id, _ := b.reg.State().Staged(); id != "" {
		t.Errorf("%q stays staged", id)
	}
	if got := b.restores("?incarnation=2&from_cluster=c1", savedBackup()); got.Cluster != "other" {
		t.Errorf("%+v", got)
	}
	for code, want := range map[api.Code]api.Code{api.NoLeader: api.NoLeader, api.OutcomeUnknown: api.Unavailable} {
		b.reg.Fail = &api.Error{Code: code, Detail: "no"}
		b.refused(want, "POST", "/v1/restore?incarnation=3&from_cluster=c1", savedBackup())
	}
	b.reg.Fail = nil
	b.reg.Down = &api.Error{Code: api.NoLeader, Detail: "down"}
	b.refused(api.NoLeader, "POST", "/v1/restore?incarnation=3&from_cluster=c1", savedBackup())
}

type broken struct{ from io.Reader }

func (r broken) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestRestoreBounds(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	s := b.h.(*server)
	s.restores.Store(maxRestores)
	b.refused(api.Limit, "POST", "/v1/restore?incarnation=2", savedBackup())
	s.restores.Store(0)
	rec := httptest.NewRecorder()
	b.h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "POST", "/v1/restore?incarnation=2", broken{strings.NewReader(savedBackup())}))
	contains(t, rec.Body.String(), "broke off after")
	s.spool = t.TempDir() + "/none"
	contains(t, b.refused(api.Internal, "POST", "/v1/restore?incarnation=2", savedBackup()).Detail, "put aside")
	if n := s.restores.Load(); n != 0 {
		t.Errorf("%d are counted", n)
	}
	if _, err := restoreOptions(httptest.NewRequest("POST", fmt.Sprintf("/v1/restore?incarnation=%d", uint64(fsm.MaxIncarnation)), nil)); err != nil {
		t.Error(err)
	}
}

// fullDisk is a registry whose disk runs full while something arrives.
type fullDisk struct {
	Registry
	looks int // before it is full
}

func (f *fullDisk) Storage() api.Storage {
	f.looks--
	return api.Storage{Free: 1 << 30, Limit: 64 << 20, Low: f.looks < 0}
}

// What arrives is put aside on the disk of the log, which must not run full by it.
func TestRestoreOnAFullDisk(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	s := b.h.(*server)
	s.spool = t.TempDir()
	inner := s.reg
	for name, c := range map[string]struct {
		looks int
		size  int64
	}{"before": {0, -1}, "too large for it": {9, 1 << 29}, "while it arrives": {1, -1}} {
		s.reg = &fullDisk{inner, c.looks}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/restore?incarnation=2", strings.NewReader(savedBackup()))
		r.ContentLength = c.size
		rec := httptest.NewRecorder()
		b.h.ServeHTTP(rec, r)
		if !strings.Contains(rec.Body.String(), `"LIMIT"`) || !strings.Contains(rec.Body.String(), "make space") {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	if left, err := os.ReadDir(s.spool); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if id, _ := b.reg.State().Staged(); id != "" {
		t.Error("something came into the log")
	}
}

// Who sends nothing any more is cut off.
func TestRestoreOfAStalledSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.propose(&fsm.InitCluster{Id: "c1"})
		w, stop := wired(t, b.h)
		conn := w.dial("POST /v1/restore?incarnation=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
		began := time.Now()
		answer := make([]byte, 4096)
		n, err := conn.Read(answer)
		if took := time.Since(began); took != bodyReadTimeout || !strings.Contains(string(answer[:n]), "broke off after 4 bytes") {
			t.Errorf("after %v: %v\n%s", took, err, answer[:n])
		}
		_ = conn.Close()
		stop()
	})
}

func TestRemoveNodeOnHold(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	b.restores("?incarnation=2&all_nodes_known=true", savedBackup())
	contains(t, b.refused(api.WrongPhase, "DELETE", "/v1/nodes/b", "").Detail, "the word that it is off")
	b.refused(api.Invalid, "DELETE", "/v1/nodes/b?source_fenced_identity=x", "")
	b.ok(200, nil, "DELETE", "/v1/nodes/b?source_fenced=b", "")
}
