package slices

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reopened closes a ledger, if there is one, and reads it as the next process does.
func reopened(t *testing.T, d *ledger, dir string, want ...entry) *ledger {
	t.Helper()
	if d != nil {
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openLedger(dir)
	if err != nil || len(d.all) != len(want) {
		t.Fatalf("%+v, %v", d, err)
	}
	for i, got := range d.all {
		if got.Move != want[i].Move || got.prefix() != want[i].prefix() || got.Phase != want[i].Phase || got.Empty != want[i].Empty {
			t.Errorf("%+v, want %+v", got, want[i])
		}
	}
	return d
}

// TestLedger: entries outlive a process, whether all copies are of the last change or not.
func TestLedger(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	d := reopened(t, nil, dir)
	e, other := entry{Move: strings.Repeat("m", 300), Prefix: []byte("a\xff:")}, entry{Move: "other", Phase: promoted, Empty: true}
	for _, p := range []phase{staging, promoted} {
		e.Phase = p
		if err := errors.Join(d.put(other), d.put(e)); err != nil {
			t.Fatal(err)
		}
		if p == promoted {
			if err := d.finish(); err != nil {
				t.Fatal(err)
			}
		}
		d = reopened(t, d, dir, other, e)
	}
	if err := errors.Join(d.drop(e.Move), d.drop(e.Move)); err != nil {
		t.Fatal(err)
	}
	d = reopened(t, d, dir, other)
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedLedger: one that is damaged stops the next process.
func TestDamagedLedger(t *testing.T) {
	dir := t.TempDir()
	refuses := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openLedger(dir); err == nil || !strings.Contains(err.Error(), "file "+path+" does not say what is staged") {
			t.Errorf("%.60q: %v", text, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	e := entry{Move: "m1", Phase: staging}
	d := reopened(t, nil, dir)
	if err := errors.Join(d.put(e), d.finish()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(d.path())
	if err != nil {
		t.Fatal(err)
	}
	d = reopened(t, d, dir, e)
	refuses("0.json", `{"move":"m","phase":"staging"}`)
	if err := errors.Join(d.put(entry{Move: "m2", Phase: "gone"}), d.close()); err != nil {
		t.Fatal(err)
	}
	strange, err := os.ReadFile(d.path())
	if err != nil {
		t.Fatal(err)
	}
	refuses(stagedFile, string(strange)) // it is whole, and says what no gate writes
	refuses(stagedFile, string(bytes.ReplaceAll(good, []byte("staging"), []byte("stagIng"))))
	for _, text := range []string{"", "{}", `{"move":"m","phase":"staging"}`} {
		refuses("0.json", text)
		refuses(stagedFile, text)
	}
}

// TestLedgerOfAnOlderProgram: the files of an older program are taken over. A start that was cut off before the new file is in
// place finds them, and one that was cut off before they were all gone deletes the others. No entry has changed until then: a file
// that says something else was put there since, and is neither deleted unread nor believed.
func TestLedgerOfAnOlderProgram(t *testing.T) {
	e1, e2 := entry{Move: "m1", Prefix: []byte("a:"), Phase: promoted}, entry{Move: "m2", Prefix: []byte("b:"), Phase: staging, Empty: true}
	dir := t.TempDir()
	write := func(name string, e entry) {
		t.Helper()
		text, err := json.Marshal(e)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const name1 = "ca0df2c95aa144c1d0ff2ff3c8f967fdc1de9ef0c4120b3726416701b519d619.json"
	const name2 = "29c1b289e7522195b362e44f54e05470b69ad20540ab60a18a05e5bf6951f13d.json"
	write(name1, e1)
	write(name2, e2)
	write(name2+".new", e1)
	write(stagedFile+".next", e1)
	d := reopened(t, nil, dir, e2, e1) // by the files' names
	write(name2, e2)                   // the deletion was not on the disk yet
	d = reopened(t, d, dir, e2, e1)
	left := func(names ...string) {
		t.Helper()
		is, err := filepath.Glob(filepath.Join(dir, "*"+oldSuffix))
		if err != nil || len(is) != 1+len(names) {
			t.Errorf("%v is left, %v", is, err)
		}
	}
	left()
	other := e2
	other.Phase = promoted
	if err := errors.Join(d.put(other), d.drop("m1"), d.close()); err != nil {
		t.Fatal(err)
	}
	full, away, moved := other, other, other
	full.Empty, away.Prefix, moved.Move = false, []byte("c:"), e1.Move
	for _, old := range []entry{e1, e2, full, away, moved} {
		name := name2
		if old.Move == e1.Move {
			name = name1 // there is nothing of that move any more
		}
		write(name, old)
		want := filepath.Join(dir, name) + " does not say what is staged: it has move " + old.Move + " " + string(old.Phase) + ` under "` + string(old.Prefix) +
			`", and staged.json does not; restore it, or see what the store has`
		if _, err := openLedger(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("of %+v: %v, want %s", old, err, want)
		}
		left(name)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := reopened(t, nil, dir, other).close(); err != nil {
		t.Fatal(err)
	}
}
