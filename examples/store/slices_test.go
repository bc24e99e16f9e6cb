package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

// countdown is a context that ends at the n-th look at it: between two transactions, where the process may die too.
type countdown struct {
	context.Context
	left int
}

// deaths is how often a process dies in one step of a test at most. A step that begins anew each time must end.
const deaths = 4

// dying is a context that ends soon, the first times.
func dying(t *rapid.T, tries int) *countdown {
	if tries >= deaths {
		return &countdown{t.Context(), -1}
	}
	return &countdown{t.Context(), rapid.IntRange(0, 8).Draw(t, "steps")}
}

func (c *countdown) Err() error {
	if c.left == 0 {
		return context.Canceled
	}
	c.left--
	return nil
}

// model is a Disk in a test, with what it must hold: entries by key, and for each move its slice.
type model struct {
	dir    string
	disk   *Disk
	values map[string]string
	staged map[string]map[string]string
	// promoted are the moves among them that Promote has ended for.
	promoted map[string]bool
}

// The prefixes of the moves overlap: a store must not care.
var prefixes = map[string]scope.Prefix{"m1": "a:", "m2": "a:b", "m3": "", "m4": "\xff\xff"}

func keys() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"a", "a:", "a:\x00", "a:b", "a:b1", "a:b\xff", "a:c", "a;", "b:", "\xff", "\xff\xff", "\xff\xff\xff"})
}

// entryText draws the bytes of an entry: expiry, incarnation, epoch, value.
func entryText(t *rapid.T) string {
	return string(Entry{Token: client.Token{Incarnation: 1, Epoch: rapid.Uint64Range(0, 9).Draw(t, "epoch")},
		Expires: rapid.SampledFrom([]int64{0, 1, 1 << 60}).Draw(t, "expires"),
		Value:   []byte(strings.Repeat("v", rapid.IntRange(0, 40).Draw(t, "length")))}.bytes())
}

func (m *model) open(t interface{ Fatal(...any) }) {
	if m.disk != nil {
		if err := m.disk.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openDisk(m.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	d.page = limit{2, 200}
	m.disk = d
}

func under(all map[string]string, p scope.Prefix) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		if p.Matches([]byte(k)) {
			out[k] = v
		}
	}
	return out
}

// gather collects records, of which each key must come once.
func gather(t interface{ Fatalf(string, ...any) }, out map[string]string) func(client.Record) error {
	return func(r client.Record) error {
		if _, twice := out[string(r.Key)]; twice {
			t.Fatalf("%q comes twice", r.Key)
		}
		out[string(r.Key)] = string(entryOf(r))
		return nil
	}
}

func same(t *rapid.T, what string, got, want map[string]string) {
	if !maps.Equal(got, want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func (m *model) write(t *rapid.T) {
	var changes []Change
	e, err := parseEntry([]byte(entryText(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range rapid.SliceOfN(keys(), 1, 8).Draw(t, "keys") {
		if c := (Change{Key: []byte(k), Value: e.Value, Expires: e.Expires, Delete: rapid.IntRange(0, 3).Draw(t, "delete") == 0}); c.Delete {
			delete(m.values, k)
			changes = append(changes, c)
		} else {
			m.values[k] = string(e.bytes())
			changes = append(changes, c)
		}
	}
	if err := m.disk.Write(e.Token, changes); err != nil {
		t.Fatal(err)
	}
}

func draw(t *rapid.T) client.Slice {
	move := rapid.SampledFrom(slices.Sorted(maps.Keys(prefixes))).Draw(t, "move")
	return client.Slice{Move: move, Prefix: prefixes[move]}
}

func (m *model) stage(t *rapid.T) {
	s := draw(t)
	if m.promoted[s.Move] {
		return // no stream comes for it any more
	}
	if m.staged[s.Move] == nil {
		m.staged[s.Move] = map[string]string{}
	}
	var batch []client.Record
	for _, k := range rapid.SliceOfN(keys(), 0, 12).Draw(t, "keys") {
		if !s.Prefix.Matches([]byte(k)) {
			continue
		}
		text := entryText(t)
		r, err := recordOf([]byte(k), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m.staged[s.Move][k] = text
		if rapid.IntRange(0, 3).Draw(t, "deleted") == 0 {
			r = client.Record{Key: []byte(k), Deleted: true}
			delete(m.staged[s.Move], k)
		}
		batch = append(batch, r)
	}
	if err := m.disk.Stage(t.Context(), s, batch); err != nil {
		t.Fatal(err)
	}
}

func (m *model) verify(t *rapid.T) {
	s := draw(t)
	if m.staged[s.Move] == nil {
		m.staged[s.Move] = map[string]string{} // an empty slice is one
	}
	got := map[string]string{}
	if err := m.disk.Verify(t.Context(), s, gather(t, got)); err != nil {
		t.Fatal(err)
	}
	same(t, "verified", got, m.staged[s.Move])
}

// promote dies after some steps, again and again.
func (m *model) promote(t *rapid.T) {
	s := draw(t)
	want, any := m.staged[s.Move]
	others := under(m.values, s.Prefix)
	maps.DeleteFunc(m.values, func(k, _ string) bool { _, in := others[k]; return in })
	for tries := 0; ; tries++ {
		err := m.disk.Promote(dying(t, tries), s)
		switch {
		case !any && err == nil:
			t.Fatal("promoted what was not staged")
		case !any && !errors.Is(err, context.Canceled):
			maps.Copy(m.values, others)
			return
		case err == nil:
			maps.Copy(m.values, want)
			m.promoted[s.Move] = true
			return
		case !errors.Is(err, context.Canceled):
			t.Fatal(err)
		}
		m.open(t)
		m.checkAwaits(t)
	}
}

func (m *model) discard(t *rapid.T) {
	s := draw(t)
	began := false
	for tries := 0; ; tries++ {
		ctx := dying(t, tries)
		began = began || ctx.left != 0
		if err := m.disk.Discard(ctx, s.Move); err == nil {
			delete(m.staged, s.Move)
			delete(m.promoted, s.Move)
			return
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		m.open(t)
		if _, any := m.staged[s.Move]; !any || !began {
			continue
		}
		if err := m.disk.Promote(t.Context(), s); err == nil {
			t.Fatal("half a slice was promoted")
		}
		if err := m.disk.Stage(t.Context(), s, nil); err == nil {
			t.Fatal("half a slice was staged upon")
		}
	}
}

func (m *model) clean(t *rapid.T) {
	s := draw(t)
	for more := true; more; {
		had := len(under(m.values, s.Prefix))
		var err error
		if more, err = m.disk.Clean(t.Context(), s.Prefix); err != nil {
			t.Fatal(err)
		}
		m.values = map[string]string{}
		if err := m.disk.Ship(t.Context(), client.Slice{}, gather(t, m.values)); err != nil {
			t.Fatal(err)
		}
		has := len(under(m.values, s.Prefix))
		if more != (has > 0) || had-has > 2 || had > 0 && had == has {
			t.Fatalf("%d records of %d are left, more is %v; a call may delete 1 or 2", has, had, more)
		}
	}
}

// checkAwaits: from the first record that is staged to the end of the promotion the keys are not served, however often
// the process dies between.
func (m *model) checkAwaits(t *rapid.T) {
	key := append([]byte(draw(t).Prefix), 'x')
	want := false
	for move := range m.staged {
		want = want || !m.promoted[move] && prefixes[move].Matches(key)
	}
	if got := m.disk.Awaits(key); got != want {
		t.Fatalf("awaits %q: got %v, want %v; staged %q, promoted %v", key, got, want, m.staged, m.promoted)
	}
}

// check looks at all there is.
func (m *model) check(t *rapid.T) {
	m.checkAwaits(t)
	s := draw(t)
	got := map[string]string{}
	if err := m.disk.Ship(t.Context(), client.Slice{Prefix: s.Prefix}, gather(t, got)); err != nil {
		t.Fatal(err)
	}
	same(t, "shipped", got, under(m.values, s.Prefix))
	moves, err := m.disk.Staged(t.Context())
	if want := slices.Sorted(maps.Keys(m.staged)); err != nil || !slices.Equal(moves, want) {
		t.Fatalf("staged: got %q, %v, want %q", moves, err, want)
	}
	n, size, err := m.disk.Size(t.Context(), s.Prefix)
	var bytes uint64
	for k, v := range got {
		bytes += uint64(len(k) + len(v))
	}
	if err != nil || n != uint64(len(got)) || size != bytes {
		t.Fatalf("size: got %d, %d, %v, want %d, %d", n, size, err, len(got), bytes)
	}
}

func TestDiskAgainstModel(t *testing.T) {
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &model{dir: fmt.Sprintf("%s/%d", root, runs), values: map[string]string{}, staged: map[string]map[string]string{}, promoted: map[string]bool{}}
		m.open(t)
		defer func() { _ = m.disk.Close() }()
		t.Repeat(map[string]func(*rapid.T){"write": m.write, "stage": m.stage, "verify": m.verify, "promote": m.promote,
			"discard": m.discard, "clean": m.clean, "reopen": func(t *rapid.T) { m.open(t) }, "": m.check})
	})
}

func testDisk(t *testing.T) *Disk {
	t.Helper()
	d, err := OpenDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func fill(t testing.TB, d *Disk, p scope.Prefix, n, size int) {
	t.Helper()
	for i := 0; i < n; {
		var changes []Change
		for ; i < n && len(changes)*size < pageBytes && len(changes) < pageRecords; i++ {
			changes = append(changes, Change{Key: fmt.Appendf(nil, "%s%06d", string(p), i), Value: make([]byte, size)})
		}
		if err := d.Write(client.Token{Incarnation: 1, Epoch: 1}, changes); err != nil {
			t.Fatal(err)
		}
	}
}

// A slice is shipped while its scope is written: what is not touched comes once and whole, and nothing comes twice.
func TestShipWhileWritten(t *testing.T) {
	d := testDisk(t)
	d.page = limit{7, 1 << 20}
	const n = 500
	fill(t, d, "a:", n, 10)
	fill(t, d, "b:", n, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			key := fmt.Appendf(nil, "a:%06d", i%n)
			if i%2 == 0 { // odd keys stay
				if err := d.Write(client.Token{}, []Change{{Key: key, Delete: i%4 == 0}, {Key: append(key, 'x')}}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 5 {
		got := map[string]string{}
		err := d.Ship(ctx, client.Slice{Prefix: "a:"}, gather(t, got))
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < n; i += 2 {
			if k := fmt.Sprintf("a:%06d", i); got[k] == "" {
				t.Fatalf("%s was there all the time and was not shipped", k)
			}
		}
		if len(under(got, "b:")) > 0 {
			t.Fatal("another scope was shipped")
		}
	}
	cancel()
	writers.Wait()
}

// looking is a context that has each step of a Store looked at.
type looking struct {
	context.Context
	look func()
}

func (l looking) Err() error {
	l.look()
	return l.Context.Err()
}

// A slice may be larger than the memory, and no transaction may last as long as its way over the network.
func TestLargeSlice(t *testing.T) {
	d := testDisk(t)
	d.db.NoSync = true
	const n, size, most = 1500, 32 << 10, 16 << 20
	fill(t, d, "a:", n, size)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, looks := m.HeapAlloc, 0
	look := func() {
		if open := d.db.Stats().OpenTxN; open != 0 {
			t.Fatalf("%d transactions are open between two steps", open)
		}
		if looks++; looks%20 == 0 {
			runtime.GC()
			if runtime.ReadMemStats(&m); m.HeapAlloc > before+most {
				t.Fatalf("%d bytes more are in use than before, the slice has %d", m.HeapAlloc-before, n*size)
			}
		}
	}
	ctx, s := looking{t.Context(), look}, client.Slice{Move: "m", Prefix: "a:"}
	shipped := 0
	send := func(r client.Record) error {
		look()
		shipped++
		return d.Stage(t.Context(), s, []client.Record{r})
	}
	if err := errors.Join(d.Ship(ctx, s, send), d.Verify(ctx, s, func(client.Record) error { look(); return nil })); err != nil || shipped != n {
		t.Fatal(err, shipped)
	}
	for more := true; more; {
		var err error
		if more, err = d.Clean(ctx, "a:"); err != nil {
			t.Fatal(err)
		}
	}
	for step, err := range map[string]error{"promote": d.Promote(ctx, s), "discard": d.Discard(ctx, "m")} {
		if err != nil {
			t.Fatal(step, err)
		}
	}
	if got, _, err := d.Size(ctx, "a:"); err != nil || got != n {
		t.Fatal(got, err)
	}
}

func TestStageRefuses(t *testing.T) {
	d := testDisk(t)
	good := make([]byte, 16)
	for name, r := range map[string]client.Record{
		"another scope": {Key: []byte("b:1"), Value: good},
		"no key":        {Value: good},
		"a long key":    {Key: []byte("a:" + strings.Repeat("x", 32<<10)), Value: good},
		"another store": {Key: []byte("a:1"), Value: []byte("plain")},
	} {
		err := d.Stage(t.Context(), client.Slice{Move: "m", Prefix: "a:"}, []client.Record{{Key: []byte("a:0"), Value: good}, r})
		if moves, _ := d.Staged(t.Context()); err == nil || len(moves) > 0 || d.Awaits([]byte("a:0")) {
			t.Errorf("%s: staged %v, %v", name, moves, err)
		}
	}
	if err := d.Stage(t.Context(), client.Slice{Move: "m", Prefix: "a:"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Stage(t.Context(), client.Slice{Move: "m", Prefix: "b:"}, nil); err == nil {
		t.Error("a move changed its prefix")
	}
}

// What send says ends the shipping, and comes back as it is.
func TestShipEnds(t *testing.T) {
	d := testDisk(t)
	fill(t, d, "a:", 10, 1)
	stop, sent := errors.New("stop"), 0
	err := d.Ship(t.Context(), client.Slice{Prefix: "a:"}, func(client.Record) error { sent++; return stop })
	if err != stop || sent != 1 {
		t.Errorf("got %v after %d records", err, sent)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Ship(ctx, client.Slice{Prefix: "a:"}, func(client.Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
