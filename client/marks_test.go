package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
	"github.com/scope-registry/scope-registry/internal/api"
)

// opened opens a data dir, does something with it, and closes it.
func opened(t *testing.T, path string, do func(d *dataDir) error) error {
	t.Helper()
	d, err := openDataDir(path, "a")
	if err != nil {
		return err
	}
	return errors.Join(d.found(), do(d), d.close())
}

// marked is the directory of a node that has two marks, the second put in its last write.
func marked(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	if err := opened(t, path, func(d *dataDir) error {
		return errors.Join(
			d.setTokens(func([]string) []string { return []string{"t"} }),
			d.putMark(agent.Mark{Move: "m1", Prefix: "x:", Promoted: true}),
			d.putMark(agent.Mark{Move: "m2", Prefix: "y:"}),
			d.finishMarks())
	}); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantMarks(t *testing.T, path string) {
	t.Helper()
	err := opened(t, path, func(d *dataDir) error {
		marks, err := d.held()
		if err == nil && (len(marks) != 2 || marks[0].Move != "m1" || !marks[0].Promoted || marks[1].Move != "m2" || marks[1].Prefix != "y:") {
			err = fmt.Errorf("the marks are %+v", marks)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func refusesDir(t *testing.T, path, words string) {
	t.Helper()
	if err := opened(t, path, func(*dataDir) error { return nil }); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("%v, want %q", err, words)
	}
}

// inEnvelope is a file as the older program wrote moves.json, and as node.json is.
func inEnvelope(t *testing.T, version int, body string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	data, err := json.Marshal(envelope{version, hex.EncodeToString(sum[:]), []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func rewrite(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The marks of an older program are taken over by one rename: a start that died before it finds them as they were. From then
// on the older program, which asks for the version first, refuses.
func TestMarksOfAnOlderProgram(t *testing.T) {
	const body = `{"marks":[{"move":"m1","prefix":"x:","keys":0,"bytes":0,"digest":"","promoted":true,"incarnation":0,"incarnation_tag":"","moves_ended":0},` +
		`{"move":"m2","prefix":"y:","keys":0,"bytes":0,"digest":"","promoted":false,"incarnation":0,"incarnation_tag":"","moves_ended":0}]}`
	path := marked(t)
	made := contentOf(t, path, moveFile)
	for _, n := range []int{0, 1, 4096, len(made)} {
		rewrite(t, path, nodeFile, inEnvelope(t, 1, `{"node":"a","identity":"i","tokens":["t"]}`))
		rewrite(t, path, moveFile, inEnvelope(t, 1, body))
		rewrite(t, path, moveFile+".next", made[:n])
		wantMarks(t, path)
		var is envelope
		if err := json.Unmarshal(contentOf(t, path, moveFile), &is); err != nil || is.Version != 2 {
			t.Errorf("it is of version %d, %v", is.Version, err)
		}
		wantMarks(t, path)
	}
	rewrite(t, path, moveFile, bytes.Replace(inEnvelope(t, 1, body), []byte("m2"), []byte("m3"), 1))
	refusesDir(t, path, moveFile+" is damaged: its checksum")
	rewrite(t, path, moveFile, inEnvelope(t, 3, body))
	refusesDir(t, path, "is of version 3, and this program does not know that version; run the program that wrote it")
}

// The node's file is written before that of the marks, and an older program made none before the first mark.
func TestNoMarksYet(t *testing.T) {
	path := t.TempDir()
	rewrite(t, path, nodeFile, inEnvelope(t, 1, `{"node":"a","identity":"i","tokens":[]}`))
	if err := opened(t, path, func(d *dataDir) error {
		marks, err := d.held()
		if d.fresh || d.identity() != "i" || len(marks) > 0 {
			t.Errorf("fresh %v, identity %q, marks %v", d.fresh, d.identity(), marks)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	contentOf(t, path, moveFile)
}

func TestDamagedMarks(t *testing.T) {
	path := marked(t)
	good := contentOf(t, path, moveFile)
	const copies = 4
	for i := range copies {
		data := bytes.Clone(good)
		data[i*len(data)/copies+200] ^= 1
		rewrite(t, path, moveFile, data)
		wantMarks(t, path)
		if got := contentOf(t, path, moveFile); bytes.Equal(got, data) {
			t.Errorf("copy %d is as damaged as before", i)
		}
	}
	data := bytes.Clone(good)
	for i := range copies {
		data[i*len(data)/copies+200] ^= 1
	}
	rewrite(t, path, moveFile, data)
	refusesDir(t, path, moveFile+" is damaged: none of its copies is whole; restore it with the node's data, or ")
	rewrite(t, path, moveFile, good[:len(good)/2])
	refusesDir(t, path, moveFile+" is damaged: ")
	rewrite(t, path, moveFile, good)
	wantMarks(t, path)
}

// A backup that is copied over the marks of a running process has numbers of its own, and the next mark is none the less found.
func TestMarksThatAreCopiedOver(t *testing.T) {
	path := t.TempDir()
	m1 := agent.Mark{Move: "m1", Prefix: "x:"}
	if err := opened(t, path, func(d *dataDir) error {
		m0 := agent.Mark{Move: "m0", Prefix: "w:"}
		return errors.Join(d.putMark(m0), d.markPromoted("m0"), d.dropMark("m0"), d.putMark(m0), d.dropMark("m0"), d.putMark(m1))
	}); err != nil {
		t.Fatal(err)
	}
	backup := contentOf(t, path, moveFile)
	if err := opened(t, path, func(d *dataDir) error {
		rewrite(t, path, moveFile, backup)
		return d.markPromoted("m1")
	}); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, path, func(d *dataDir) error {
		if m, ok := d.mark("m1"); !ok || !m.Promoted {
			t.Errorf("the mark is %+v, %v", m, ok)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestMarksThatCannotBeRead(t *testing.T) {
	path := marked(t)
	name := filepath.Join(path, moveFile)
	if err := errors.Join(os.Remove(name), os.Symlink(name, name)); err != nil {
		t.Fatal(err)
	}
	refusesDir(t, path, "data dir: moves.json: open "+name+": too many levels of symbolic links; mend that, or restore the directory together")
}

func TestLostFiles(t *testing.T) {
	path := marked(t)
	for name, words := range map[string]string{
		moveFile: "has no moves.json, which it had",
		nodeFile: "has moves.json and no node.json",
	} {
		good := contentOf(t, path, name)
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
		refusesDir(t, path, words)
		rewrite(t, path, name, good)
		wantMarks(t, path)
	}
}

// When a move is over and its target closed, all copies of the marks are of the last change.
func TestMarksAreFinished(t *testing.T) {
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	if err := a.put("x:1", "v"); err != nil {
		t.Fatal(err)
	}
	if m := s.move(a.c, api.StartMove{Prefix: "x:", From: "a", To: "b"}); m.Phase != "done" {
		t.Fatalf("%+v", m)
	}
	s.eventually("b serves", func() error { return b.put("x:2", "v") })
	b.stop()
	for i, c := range copiesIn(t, b.cfg.DataDir) {
		if c.Seq != 3 || len(c.Body.Marks) != 1 || !c.Body.Marks[0].Promoted {
			t.Errorf("copy %d: %+v", i, c)
		}
	}
}

type markCopy struct {
	Seq  int
	Body moveRecord
}

func copiesIn(t *testing.T, dir string) []markCopy {
	t.Helper()
	var is struct{ Copies []markCopy }
	if err := json.Unmarshal(contentOf(t, dir, moveFile), &is); err != nil {
		t.Fatal(err)
	}
	return is.Copies
}

// ofDir is a session that has its data dir, and a store, and tells nobody.
func ofDir(d *dataDir, store Store) *Session {
	s := &Session{dir: d, ended: make(chan struct{}), notes: map[string]string{}, log: silentLog()}
	close(s.ended)
	s.receive = newReceiver("a", store, &agent.Admission{}, d.mark, s.tell, s.log)
	return s
}

// A store that does not delete what is staged does not keep the other copies of the marks from following.
func TestDroppedMarkIsFinished(t *testing.T) {
	path := marked(t)
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.fails(func(context.Context, string, string) error { return errors.New("the store is busy") })
		if err := opened(t, path, func(d *dataDir) error {
			ctx, cancel := context.WithCancel(t.Context())
			s := ofDir(d, store)
			go s.discard(ctx, "m2")
			synctest.Wait() // it is asked for again later
			for i, c := range copiesIn(t, path) {
				if len(c.Body.Marks) != 1 {
					t.Errorf("copy %d: %+v", i, c)
				}
			}
			cancel()
			synctest.Wait()
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// What a note says of the further copies is so: after an error they are tried again, without another change.
func TestFurtherCopiesAreTriedAgain(t *testing.T) {
	path := marked(t)
	synctest.Test(t, func(t *testing.T) {
		if err := opened(t, path, func(d *dataDir) error {
			name := filepath.Join(path, moveFile)
			if err := errors.Join(d.dropMark("m1"), os.Remove(name), os.Mkdir(name+".next", 0o700)); err != nil {
				return err
			}
			s := ofDir(d, nil)
			go s.finishMarks(t.Context())
			synctest.Wait()
			s.mu.Lock()
			note := s.notes["further copy of the marks"]
			s.mu.Unlock()
			if !strings.Contains(note, "moves.json is not written whole: open "+name+".next: is a directory; check the disk") {
				t.Errorf("the note is %q", note)
			}
			if err := os.Remove(name + ".next"); err != nil {
				return err
			}
			time.Sleep(storeAgain)
			synctest.Wait()
			for i, c := range copiesIn(t, path) {
				if len(c.Body.Marks) != 1 || c.Body.Marks[0].Move != "m2" {
					t.Errorf("copy %d: %+v", i, c)
				}
			}
			if len(s.notes) > 0 {
				t.Errorf("%v", s.notes)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}
