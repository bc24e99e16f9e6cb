package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/scope-registry/scope-registry/client"
)

// lastTx is the number of write transactions that were committed.
func lastTx(t testing.TB, d *Disk) (id int) {
	t.Helper()
	if err := d.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// Writes that wait for the disk at the same time share a transaction, and each is whole in it.
func TestWritesShareACommit(t *testing.T) {
	const writers = 16
	d := testDisk(t)
	before := lastTx(t, d)
	busy, err := d.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			key := fmt.Appendf(nil, "a:%d", i)
			token := client.Token{Incarnation: 1, Epoch: uint64(i)}
			if err := d.Write(token, []Change{{Key: key, Value: key}, {Key: append(key, 'x'), Value: key}}); err != nil {
				t.Error(err)
			}
		})
	}
	for waiting := 0; waiting < 2*writers; runtime.Gosched() {
		d.mu.Lock()
		if d.next != nil {
			waiting = len(d.next.entries)
		}
		d.mu.Unlock()
	}
	if err := busy.Rollback(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if after := lastTx(t, d); after != before+1 {
		t.Errorf("%d writes took %d transactions", writers, after-before)
	}
	for i := range writers {
		for _, key := range []string{fmt.Sprintf("a:%d", i), fmt.Sprintf("a:%dx", i)} {
			e, found, err := d.Get([]byte(key), time.Now())
			if err != nil || !found || e.Token.Epoch != uint64(i) || string(e.Value) != fmt.Sprintf("a:%d", i) {
				t.Errorf("%s: got %+v, %v, %v", key, e, found, err)
			}
		}
	}
}

func TestExpiry(t *testing.T) {
	d := testDisk(t)
	now := time.UnixMilli(1000)
	if err := d.Write(client.Token{}, []Change{{Key: []byte("a:1"), Expires: 1000}, {Key: []byte("a:2"), Expires: 1001}, {Key: []byte("a:3")}}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"a:1": false, "a:2": true, "a:3": true, "a:4": false} {
		if _, found, err := d.Get([]byte(key), now); err != nil || found != want {
			t.Errorf("%s: found is %v, %v", key, found, err)
		}
	}
	var listed, shipped []byte
	err := errors.Join(
		d.Each(t.Context(), "", now, func(key []byte, _ Entry) error { listed = append(listed, key...); return nil }),
		d.Ship(t.Context(), client.Slice{Prefix: "a:"}, func(r client.Record) error { shipped = append(shipped, r.Key...); return nil }))
	if err != nil || string(listed) != "a:2a:3" || string(shipped) != "a:1a:2a:3" {
		t.Errorf("listed %s, shipped %s, %v", listed, shipped, err)
	}
}

// A process that was killed holds no lock, and what it acknowledged is there.
func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d, err := OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write(client.Token{Incarnation: 2, Epoch: 7}, []Change{{Key: []byte("\x00k"), Value: []byte("v"), Expires: 1 << 60}}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDisk(dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second process got %v", err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, "store.db"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenDisk(dir); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	e, found, err := d.Get([]byte("\x00k"), time.Now())
	if err != nil || !found || !bytes.Equal(e.Value, []byte("v")) || e.Token != (client.Token{Incarnation: 2, Epoch: 7}) || e.Expires != 1<<60 {
		t.Errorf("got %+v, %v, %v", e, found, err)
	}
}

// After a commit that failed nothing is written until the process begins anew.
func TestFailedDisk(t *testing.T) {
	d := testDisk(t)
	if err := d.Stage(t.Context(), client.Slice{Move: "m", Prefix: "a:"}, nil); err != nil {
		t.Fatal(err)
	}
	path := d.db.Path()
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	unknown, unavailable := &client.Error{Code: "OUTCOME_UNKNOWN"}, &client.Error{Code: "UNAVAILABLE"}
	if err := d.Write(client.Token{}, []Change{{Key: []byte("a:1")}}); !errors.Is(err, unknown) {
		t.Errorf("the write that failed got %v", err)
	}
	var err error
	if d.db, err = bbolt.Open(path, 0o600, nil); err != nil { // the disk works again
		t.Fatal(err)
	}
	for what, err := range map[string]error{"write": d.Write(client.Token{}, []Change{{Key: []byte("a:1")}}),
		"stage": d.Stage(t.Context(), client.Slice{Move: "m", Prefix: "a:"}, nil), "promote": d.Promote(t.Context(), client.Slice{Move: "m", Prefix: "a:"}),
		"discard": d.Discard(t.Context(), "m")} {
		if !errors.Is(err, unavailable) {
			t.Errorf("%s got %v", what, err)
		}
	}
}

// A write that bbolt refuses has no effect, and others are taken.
func TestRefusedByDisk(t *testing.T) {
	d := testDisk(t)
	if err := d.Write(client.Token{}, []Change{{Key: []byte("a:1")}, {Key: nil}}); err == nil {
		t.Error("a write without a key was taken")
	}
	if _, found, err := d.Get([]byte("a:1"), time.Now()); err != nil || found {
		t.Errorf("half a write: %v, %v", found, err)
	}
	if err := d.Write(client.Token{}, []Change{{Key: []byte("a:1")}}); err != nil {
		t.Error(err)
	}
}
