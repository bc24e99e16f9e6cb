package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// A write that outlives its session keeps the data dir locked also when nobody
// refers to the session any more.
func TestStuckWriteKeepsTheDirAfterCollection(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	goOn, done := standing(a.Guard(), "k")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	gone := make(chan struct{})
	runtime.AddCleanup(a.Session, func(gone chan struct{}) { close(gone) }, gone)
	if err := a.Close(ctx); err == nil || !strings.Contains(err.Error(), "writes are still under way") {
		t.Fatalf("%v", err)
	}
	a.Session = nil
	a.cur.Store(nil)
	s.eventually("the session is collected", func() error {
		runtime.GC()
		select {
		case <-gone:
			return nil
		default:
			return fmt.Errorf("it is still referred to")
		}
	})
	for range 5 { // what the session held is collected after it
		runtime.GC()
		runtime.Gosched()
	}
	if _, err := StartSession(a.c, a.cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("%v", err)
	}
	close(goOn)
	wants(t, <-done, ErrOutcomeUnknown)
}

// What is staged may be all that is left of a scope. It is not thrown away for a
// data dir that knows of nothing, however often that is tried.
func TestNewDataDirKeepsWhatIsStaged(t *testing.T) {
	c := New([]string{"127.0.0.1:1"})
	defer c.Close()
	store := newMemStore()
	if err := store.Stage(t.Context(), Slice{Move: "m1", Prefix: "x:"}, manyRecords(1, 1)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 2 {
		if _, err := StartSession(c, SessionConfig{Node: "a", DataDir: dir, Store: store}); err == nil || !strings.Contains(err.Error(), "is new") {
			t.Fatalf("%v", err)
		}
	}
	if staged, err := store.Staged(t.Context()); err != nil || len(staged) != 1 {
		t.Errorf("%v is staged, %v", staged, err)
	}
}

// A mark that came to the disk though its write failed goes with the slice. It would keep the node from starting.
func TestFailedMarkIsDropped(t *testing.T) {
	path := t.TempDir()
	if err := opened(t, path, func(d *dataDir) error {
		name := filepath.Join(path, moveFile)
		if err := errors.Join(os.Remove(name), os.Mkdir(name+".next", 0o700)); err != nil {
			return err
		}
		m := agent.Mark{Move: "m1", Prefix: "x:"}
		if err := d.putMark(m); err == nil {
			t.Error("it was written over a directory")
		}
		if err := os.Remove(name + ".next"); err != nil {
			return err
		}
		before := d.marked
		if err := d.putMark(m); err != nil {
			return err
		}
		d.marked = before // as if only the answer of the disk had been lost
		return d.dropMark(m.Move)
	}); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, path, func(d *dataDir) error {
		marks, err := d.held()
		if len(marks) != 0 {
			t.Errorf("%+v", marks)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// The first try opens the session and its answer is lost; the next meets a server
// that knows no leader. That is no answer to the first.
func TestOpenIsRepeatedWhileInDoubt(t *testing.T) {
	s := startServer(t)
	a := s.node("a")
	a.stop()
	way := &lossyOpen{ids: map[string]int{}, sessions: map[string]bool{}}
	a.c = New([]string{a.link.url}, WithTimeout(300*time.Millisecond), WithHTTPClient(&http.Client{Transport: way}))
	a.start()
	way.mu.Lock()
	defer way.mu.Unlock()
	if len(way.ids) < 3 || len(way.sessions) != 1 || !way.sessions[a.Status().Session] {
		t.Errorf("in %d requests the sessions %v were asked for", len(way.ids), way.sessions)
	}
}

type lossyOpen struct {
	mu       sync.Mutex
	ids      map[string]int // request ids, in the order they came
	sessions map[string]bool
}

func (l *lossyOpen) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/session") {
		return http.DefaultTransport.RoundTrip(r)
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var o OpenSession
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	l.mu.Lock()
	id := r.Header[strings.ToLower(api.HeaderRequestID)][0]
	at, known := l.ids[id]
	if !known {
		at = len(l.ids)
		l.ids[id] = at
	}
	l.sessions[o.Session] = true
	l.mu.Unlock()
	switch at {
	case 0:
		if !known {
			if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
				_ = resp.Body.Close()
			}
		}
		return nil, errors.New("the connection broke")
	case 1:
		said := `{"code":"NO_LEADER","detail":"an election is under way"}`
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(said)), Request: r}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

func TestReasonFitsTheRegistry(t *testing.T) {
	for _, text := range []string{strings.Repeat("\xff", 2000), strings.Repeat("ü", 1000), "short"} {
		data, err := json.Marshal(reasonOf(errors.New(text)))
		if err != nil {
			t.Fatal(err)
		}
		var came string
		if err := json.Unmarshal(data, &came); err != nil || len(came) > 1024 || came == "" {
			t.Errorf("%d bytes came, %v", len(came), err)
		}
	}
}

// A store that is opened late is opened by the process that has the data dir alone, and one that is refused leaves the
// directory as it was.
func TestStoreIsOpenedUnderTheDirectoryLock(t *testing.T) {
	c := New([]string{"127.0.0.1:1"})
	defer c.Close()
	cfg := SessionConfig{Node: "a", DataDir: t.TempDir()}
	broken := errors.New("the store is held")
	var asked []string
	cfg.OpenStore = func(identity string) (Store, error) { asked = append(asked, identity); return nil, broken }
	if _, err := StartSession(c, cfg); !errors.Is(err, broken) {
		t.Fatalf("%v", err)
	}
	cfg.OpenStore = func(identity string) (Store, error) { asked = append(asked, identity); return newMemStore(), nil }
	for range 2 {
		s, err := StartSession(c, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := StartSession(c, cfg); err == nil || !strings.Contains(err.Error(), "in use by process") {
			t.Errorf("%v", err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Close(over); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if len(asked) != 3 || asked[1] != asked[2] || asked[1] == "" || asked[0] == "" {
		t.Errorf("it was opened for %q", asked)
	}
}
