package registry

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

var (
	flips    = flag.Int("flips", 100, "how many single-byte flips TestFlips makes")
	flipSeed = flag.Uint64("flipseed", 1, "which ones")
)

// flipped is a place in a file, and whether what stands there is in use.
type flipped struct {
	path, kind string
	from, to   int64
	live       bool
}

// TestFlips changes single bytes of a server's data directory, one at a time, and starts from it: each is found, or leaves
// the very same state, votes and configuration. -flips 10000 prints the table of docs/testing.md.
func TestFlips(t *testing.T) {
	dir := t.TempDir()
	flipDir(t, dir)
	image := readTree(t, dir)
	places := flipPlaces(t, dir)
	want := mustRebuild(t, dir)
	writeTree(t, dir, image)
	rng := rand.New(rand.NewPCG(*flipSeed, 2))
	counts := map[string]int{}
	for i := range *flips {
		// Half of them in live bytes of store and journal; all of a snapshot and of the mark are live.
		kind := []string{"store live", "journal live", "store dead", "store live", "journal live", "store live", "state", "meta", "sums", "mark", "store dead", "journal dead"}[i%12]
		p, at := draw(rng, places[kind])
		raw := bytes.Clone(image[p.path])
		raw[at] ^= byte(1 + rng.IntN(255))
		writeFile(t, filepath.Join(dir, p.path), raw)
		got, err := rebuild(dir, aloneConfig(t, dir))
		aside, _ := os.ReadDir(filepath.Join(dir, damagedDir))
		outcome := "MISSED"
		var damaged *CorruptError
		switch {
		case errors.As(err, &damaged) || err == nil && len(aside) > 0 && got == want:
			outcome = "detected"
		case err != nil:
			t.Errorf("byte %d of %s (%s): stopped with %v, which does not say that it is damage", at, p.path, kind, err)
		case got == want:
			outcome = "harmless"
		}
		if damaged != nil && !strings.Contains(err.Error(), filepath.Dir(filepath.Join(dir, p.path))) {
			t.Errorf("byte %d of %s (%s): the error names no such file: %v", at, p.path, kind, err)
		}
		if outcome == "MISSED" {
			t.Errorf("byte %d of %s (%s) was missed:\n%s\nwant %s", at, p.path, kind, got, want)
		}
		counts[p.kind+"|"+outcome]++
		writeTree(t, dir, image)
	}
	t.Log(flipTable(counts))
	if got := mustRebuild(t, dir); got != want {
		t.Errorf("at the end: %s\nwant %s", got, want)
	}
}

// flipDir is a directory with a tree of several levels, free pages, entries that were written anew, which the process that died had
// in its journal only, and three snapshots.
func flipDir(t *testing.T, dir string) {
	t.Helper()
	populated(t, dir, 600, []uint64{200, 350, 500}, 120)
	s, _ := mustOpen(t, dir)
	defer die(t, s)
	last, err := s.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.DeleteRange(last-9, last)); err != nil {
		t.Fatal(err)
	}
	for i := last - 9; i <= last; i += 2 {
		logs := []*raft.Log{{Index: i, Term: 3, Data: sampleEntry(t, int(i))}, {Index: i + 1, Term: 3, Data: sampleEntry(t, int(i+1))}}
		if err := s.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
}

// flipPlaces are the places to draw from, by kind.
func flipPlaces(t *testing.T, dir string) map[string][]flipped {
	t.Helper()
	out := map[string][]flipped{}
	raw := readFile(t, filepath.Join(dir, storeFile))
	used := []flipped{{from: 0, to: boltPageHeader + boltMetaSize}, {from: int64(os.Getpagesize()), to: int64(os.Getpagesize()) + boltPageHeader + boltMetaSize}}
	s := &store{path: filepath.Join(dir, storeFile)}
	if _, err := s.auditTree(bytes.NewReader(raw), func(from, to int64) { used = append(used, flipped{from: from, to: to}) }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(used, func(a, b flipped) int { return cmp.Compare(a.from, b.from) })
	end := int64(0)
	for _, u := range used {
		if u.from > end {
			out["store dead"] = append(out["store dead"], flipped{path: storeFile, kind: "log and stable store, not in use", from: end, to: u.from})
		}
		out["store live"] = append(out["store live"], flipped{path: storeFile, kind: "log and stable store, in use", from: u.from, to: u.to, live: true})
		end = u.to
	}
	if rest := int64(len(raw)); rest > end {
		out["store dead"] = append(out["store dead"], flipped{path: storeFile, kind: "log and stable store, not in use", from: end, to: rest})
	}
	out["journal live"], out["journal dead"] = journalPlaces(readFile(t, filepath.Join(dir, journalFile)))
	out["mark"] = []flipped{{path: tailFile, kind: "mark of the log's end", to: int64(tailSize), live: true}}
	for _, snap := range snapshotDirs(t, dir) {
		for kind, name := range map[string]string{"state": stateName, "meta": metaName, "sums": sumsName} {
			path := filepath.Join(snapshotDir, filepath.Base(snap), name)
			out[kind] = append(out[kind], flipped{path: path, kind: "snapshot " + name, to: int64(len(readFile(t, filepath.Join(dir, path)))), live: true})
		}
	}
	if len(out) != 8 || len(out["journal live"]) != 5 {
		t.Fatalf("kinds %v", out)
	}
	for _, kind := range []string{"state", "meta", "sums"} {
		slices.SortFunc(out[kind], func(a, b flipped) int { return strings.Compare(a.path, b.path) })
	}
	return out
}

// journalPlaces are the frames of a journal, and what is between them.
func journalPlaces(raw []byte) (live, dead []flipped) {
	end := 0
	for at := 0; at < len(raw); at += journalBlock {
		if _, body := openFrame(raw[at:], at); body != nil {
			dead = append(dead, flipped{path: journalFile, kind: "journal, not in use", from: int64(end), to: int64(at)})
			end = at + journalHeader + len(body)
			live = append(live, flipped{path: journalFile, kind: "journal, in use", from: int64(at), to: int64(end), live: true})
		}
	}
	return live, append(dead, flipped{path: journalFile, kind: "journal, not in use", from: int64(end), to: int64(len(raw))})
}

// draw picks a byte, each as likely as any other.
func draw(rng *rand.Rand, places []flipped) (flipped, int64) {
	all := int64(0)
	for _, p := range places {
		all += p.to - p.from
	}
	n := rng.Int64N(all)
	for _, p := range places {
		if n < p.to-p.from {
			return p, p.from + n
		}
		n -= p.to - p.from
	}
	panic("unreachable")
}

func flipTable(counts map[string]int) string {
	kinds := []string{"log and stable store, in use", "log and stable store, not in use", "journal, in use", "journal, not in use", "mark of the log's end", "snapshot " + stateName, "snapshot " + metaName, "snapshot " + sumsName}
	var b strings.Builder
	b.WriteString("\n| bytes of | flips | detected | harmless | missed |\n|---|---|---|---|---|\n")
	sum := map[string]int{}
	row := func(name string, of func(outcome string) int) {
		d, h, m := of("detected"), of("harmless"), of("MISSED")
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", name, d+h+m, d, h, m)
	}
	for _, k := range kinds {
		row(k, func(outcome string) int {
			sum[outcome] += counts[k+"|"+outcome]
			return counts[k+"|"+outcome]
		})
	}
	row("all", func(outcome string) int { return sum[outcome] })
	return b.String()
}

// readTree is all files below a directory, by path.
func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out[rel] = readFile(t, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// writeTree makes a directory hold these files and no others.
func writeTree(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for path := range readTree(t, dir) {
		if _, keep := files[path]; !keep {
			mustRemove(t, filepath.Join(dir, path))
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, damagedDir)); err != nil {
		t.Fatal(err)
	}
	for path, raw := range files {
		full := filepath.Join(dir, path)
		if have, err := os.ReadFile(full); err == nil && bytes.Equal(have, raw) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, full, raw)
	}
}
