package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/snapshot"
)

// loaded is the state that a backup holds.
func loaded(data []byte) (fsm.State, error) {
	r, err := snapshot.NewReader(bytes.NewReader(data))
	if err != nil {
		return fsm.State{}, err
	}
	l := fsm.NewLoader()
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return l.State()
		}
		if err == nil {
			err = l.Add(record)
		}
		if err != nil {
			return fsm.State{}, err
		}
	}
}

func TestBackupLoadsToTheSameState(t *testing.T) {
	b := newBench(t)
	b.propose(&fsm.InitCluster{Id: "c1"})
	b.populated()
	rec := b.do("GET", "/v1/backup", "")
	st := b.reg.State()
	_, params, err := mime.ParseMediaType(rec.Header().Get("Content-Disposition"))
	if want := fmt.Sprintf("scope-registry-c1-%d.backup", st.Index()); err != nil || params["filename"] != want {
		t.Errorf("%v, %v", err, rec.Header())
	}
	if h := rec.Header(); h.Get(api.HeaderIndex) != fmt.Sprint(st.Index()) || h.Get("Content-Type") != "application/octet-stream" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", h)
	}
	if got := b.reg.Asks[len(b.reg.Asks)-1]; got.Consistency != "linearizable" {
		t.Errorf("read %+v", got)
	}
	data := rec.Body.Bytes()
	if n, err := snapshot.Verify(bytes.NewReader(data)); err != nil || n == 0 {
		t.Fatalf("%d records, %v", n, err)
	}
	got, err := loaded(data)
	if err != nil || got.Hash() != st.Hash() || got.Index() != st.Index() {
		t.Errorf("index %d, hash %s, %v; want %d, %s", got.Index(), got.Hash(), err, st.Index(), st.Hash())
	}
	for _, n := range []int{0, 1, len(data) / 2, len(data) - 1} {
		if _, err := snapshot.Verify(bytes.NewReader(data[:n])); err == nil {
			t.Errorf("the first %d of %d bytes verify", n, len(data))
		}
	}
	if rec := b.do("HEAD", "/v1/backup", ""); rec.Code != 200 || rec.Body.Len() != 0 {
		t.Errorf("%d, %d bytes", rec.Code, rec.Body.Len())
	}
}

func TestBackupRefusals(t *testing.T) {
	b := newBench(t)
	s := b.h.(*server)
	s.backups.Store(maxBackups)
	contains(t, b.refused(api.Limit, "GET", "/v1/backup", "").Detail, "4 backups")
	s.backups.Store(0)
	b.reg.Down = &api.Error{Code: api.NoLeader, Detail: "no leader"}
	b.refused(api.NoLeader, "GET", "/v1/backup", "")
	if n := s.backups.Load(); n != 0 {
		t.Errorf("%d downloads are counted after a refusal", n)
	}
}

// failing takes some bytes and then no more.
type failing struct {
	*httptest.ResponseRecorder
	room int
}

func (w *failing) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errors.New("no more")
	}
	return w.ResponseRecorder.Write(p)
}

// A backup that breaks off must not look like a whole one: the connection is cut.
func TestBackupBreaksOff(t *testing.T) {
	b := newBench(t)
	b.many(5000)
	defer func() {
		if r := recover(); r != any(http.ErrAbortHandler) {
			t.Errorf("the handler ended with %v", r)
		}
		if n := b.h.(*server).backups.Load(); n != 0 {
			t.Errorf("%d downloads are counted", n)
		}
	}()
	b.h.ServeHTTP(&failing{httptest.NewRecorder(), 3 * writePiece}, httptest.NewRequest("GET", "/v1/backup", nil))
	t.Error("the handler returned")
}

// A slow client gets its backup, of the state at the time of the request.
func TestBackupForSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.many(5000)
		w, stop := wired(t, b.h)
		before := b.reg.State()
		h, body, end := w.get("/v1/backup", "*/*")
		b.ok(200, nil, "PUT", "/v1/nodes/later", `{"addr":"h:1"}`)
		var data []byte
		for chunk := make([]byte, writePiece); ; {
			n, err := io.ReadFull(body, chunk)
			data = append(data, chunk[:n]...)
			if err != nil {
				break
			}
			time.Sleep(writeTimeout - time.Second)
		}
		got, err := loaded(data)
		if err != nil || got.Hash() != before.Hash() || h.Get(api.HeaderIndex) != fmt.Sprint(before.Index()) {
			t.Errorf("%d bytes, %v, index %d, header %s, want %d", len(data), err, got.Index(), h.Get(api.HeaderIndex), before.Index())
		}
		if len(data) < 4*writePiece {
			t.Errorf("%d bytes are too few to test with", len(data))
		}
		end()
		stop()
	})
}

// One that stalls is cut off, and what it got is no backup.
func TestBackupForStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.many(5000)
		w, stop := wired(t, b.h)
		_, body, end := w.get("/v1/backup", "*/*")
		part := make([]byte, 2*writePiece)
		if _, err := io.ReadFull(body, part); err != nil {
			t.Fatal(err)
		}
		backups := &b.h.(*server).backups
		time.Sleep(writeTimeout - time.Second)
		if n := backups.Load(); n != 1 {
			t.Errorf("%d downloads before the time is up", n)
		}
		time.Sleep(time.Second + 2*writeSlack)
		if n := backups.Load(); n != 0 {
			t.Errorf("%d downloads after it", n)
		}
		rest, err := io.ReadAll(body)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the download ended with %v", err)
		}
		if _, err := snapshot.Verify(bytes.NewReader(append(part, rest...))); err == nil {
			t.Error("a part of a backup verifies")
		}
		contains(t, b.do("GET", "/metrics", "").Body.String(), `requests_total{code="200",operation="backup"} 1`)
		end()
		stop()
	})
}
