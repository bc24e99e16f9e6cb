package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	var is struct {
		Copies []struct {
			Seq  int
			Body moveRecord
		}
	}
	if err := json.Unmarshal(contentOf(t, b.cfg.DataDir, moveFile), &is); err != nil {
		t.Fatal(err)
	}
	for i, c := range is.Copies {
		if c.Seq != 3 || len(c.Body.Marks) != 1 || !c.Body.Marks[0].Promoted {
			t.Errorf("copy %d: %+v", i, c)
		}
	}
}
