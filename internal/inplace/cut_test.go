package inplace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	errCut  = errors.New("the process is dead")
	errDisk = errors.New("input/output error")
)

// drive is a disk and the system's cache of it, in one directory. Of what is written and not synced some sectors are on the
// disk after a power cut, or after a sync that failed, which has forgotten the others.
type drive struct {
	rng     *rand.Rand
	left    int             // operations until the process dies
	fails   float64         // how likely an operation fails
	unread  float64         // how likely a read fails, which is no operation: it leaves nothing behind
	names   map[string]*ino // as the cache has them
	onDisk  map[string]*ino
	renames [][2]string // since the directory was synced
	writes  int
	syncs   int
}

type ino struct {
	drive   *drive
	cache   []byte
	disk    []byte
	pending []change
}

type change struct {
	b  []byte
	at int
}

// operation is one more; it fails, or is the process's last and does not happen.
func (d *drive) operation() error {
	if d.left--; d.left < 0 {
		return errCut
	}
	if d.rng.Float64() < d.fails {
		return errDisk
	}
	return nil
}

func (d *drive) create(path string) (disk, error) {
	if err := d.operation(); err != nil {
		return nil, err
	}
	d.names[path] = &ino{drive: d}
	return d.names[path], nil
}

func (d *drive) rename(from, to string) error {
	if err := d.operation(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	d.renames = append(d.renames, [2]string{from, to})
	return nil
}

func (d *drive) syncDir(string) error {
	err := d.operation()
	if err == nil {
		d.settle(len(d.renames))
	}
	return err
}

// settle has the disk's directory hold the first changes of it.
func (d *drive) settle(n int) {
	for _, r := range d.renames[:n] {
		d.onDisk[r[1]] = d.names[r[1]]
	}
	d.renames = d.renames[n:]
}

func (i *ino) WriteAt(b []byte, at int64) (int, error) {
	i.drive.writes++
	err := i.drive.operation()
	if err == nil || i.drive.rng.IntN(2) == 0 { // one that failed, or died, may be in the cache, up to somewhere
		if err != nil {
			b = b[:i.drive.rng.IntN(len(b)+1)]
		}
		i.cache = over(i.cache, b, int(at))
		i.pending = append(i.pending, change{bytes.Clone(b), int(at)})
	}
	return len(b), err
}

// over is old with b in it; what is between its end and b is zero.
func over(old, b []byte, at int) []byte {
	out := append(bytes.Clone(old), make([]byte, max(0, at+len(b)-len(old)))...)
	copy(out[at:], b)
	return out
}

func (i *ino) ReadAt(b []byte, at int64) (int, error) {
	if i.drive.rng.Float64() < i.drive.unread {
		return 0, errDisk
	}
	n := copy(b, i.cache[min(int(at), len(i.cache)):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (i *ino) Sync() error { return i.Datasync() }

func (i *ino) Datasync() error {
	i.drive.syncs++
	err := i.drive.operation()
	if err == errCut {
		return err // some of it the power cut may let through
	}
	i.flush(err == nil)
	return err
}

// flush puts what is pending on the disk: all of it, or some sectors.
func (i *ino) flush(all bool) {
	const sector = 512
	often := i.drive.rng.Float64()
	for _, p := range i.pending {
		for from := 0; from < len(p.b); from += sector {
			if all || i.drive.rng.Float64() < often {
				i.disk = over(i.disk, p.b[from:min(from+sector, len(p.b))], p.at+from)
			}
		}
	}
	i.pending = nil
}

func (i *ino) Close() error { return nil }

func (i *ino) isAt(path string) bool { return i.drive.names[path] == i }

// powerCut leaves what is on the disk.
func (d *drive) powerCut() {
	d.settle(d.rng.IntN(len(d.renames) + 1))
	d.renames = nil
	d.names = map[string]*ino{}
	for name, i := range d.onDisk {
		i.flush(false)
		i.cache = bytes.Clone(i.disk)
		d.names[name] = i
	}
}

// flip changes a bit of the file, on the disk and in the cache.
func (d *drive) flip(path string) {
	i := d.names[path]
	if i == nil || len(i.cache) == 0 || len(i.disk) != len(i.cache) {
		return
	}
	at, bit := d.rng.IntN(len(i.cache)), byte(1)<<d.rng.IntN(8)
	i.cache[at] ^= bit
	i.disk[at] ^= bit
}

// lives is a value that processes change, one after the other, each until it dies.
type lives struct {
	t      *rapid.T
	d      *drive
	path   string
	may    []string // what a start may find: what was durable, and what was tried since
	spoilt bool     // one copy is damaged, since the last start that went well
	drawn  int
	backup []byte // of the file, at some time
	saved  string // what it says
}

// Whenever a process dies or the power is cut, whatever of the last writes is on the disk, whichever writes and syncs have failed
// before, and though a bit of the file is flipped besides, the next start finds the value that was put last, or one that a Put with an error
// was about since, or what a backup says that was copied over the file since.
func TestValueAfterThePowerWasCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		l := &lives{t: t, path: "dir/value.json", d: &drive{rng: rng, names: map[string]*ino{}, onDisk: map[string]*ino{}}, may: []string{"none"}}
		for range rapid.IntRange(1, 6).Draw(t, "lives") {
			l.d.left, l.d.fails = rng.IntN(40), []float64{0, 0, 0.05, 0.3}[rng.IntN(4)]
			l.d.unread = l.d.fails
			l.live()
			if rng.IntN(2) == 0 {
				l.d.powerCut()
			}
			if !l.spoilt && rng.IntN(2) == 0 {
				l.spoilt = true
				l.d.flip(l.path)
			}
		}
		l.found()
	})
}

// found is what a start reads.
func (l *lives) found() string {
	is := "none"
	if i := l.d.names[l.path]; i != nil {
		body, err := read(bytes.NewReader(i.cache), int64(len(i.cache)), testVersion)
		if err != nil {
			l.t.Fatal(err)
		}
		is = string(body)
	}
	if !slices.Contains(l.may, is) {
		l.t.Fatalf("a start finds %.40s, and it may find %.40q", is, l.may)
	}
	return is
}

func (l *lives) live() {
	is := l.found()
	f := &File{path: l.path, version: testVersion, sys: l.d}
	if is != "none" && l.put(f, is) != nil {
		return
	}
	l.spoilt = false
	for range 20 {
		var err error
		switch l.d.rng.IntN(10) {
		case 0:
			l.restore()
		case 1, 2, 3, 4:
			err = f.Finish()
		default:
			l.drawn++
			err = l.put(f, fmt.Sprintf("[%d,%q]", l.drawn, strings.Repeat("x", []int{0, 400, 3000}[l.d.rng.IntN(3)])))
		}
		if errors.Is(err, errCut) {
			return
		}
	}
}

func (l *lives) put(f *File, body string) error {
	l.may = append(l.may, body)
	err := f.Put([]byte(body))
	if err == nil {
		l.may = []string{body}
		if l.d.rng.IntN(4) == 0 {
			l.backup, l.saved = bytes.Clone(l.d.names[l.path].cache), body
		}
	}
	return err
}

// restore copies the backup over the file, in place, and onto the disk.
func (l *lives) restore() {
	if i := l.d.names[l.path]; i != nil && l.backup != nil {
		i.cache, i.disk, i.pending = bytes.Clone(l.backup), bytes.Clone(l.backup), nil
		l.may = append(l.may, l.saved)
	}
}

// A change takes one write and one sync, and the other half one more when there is time.
func TestPutTakesOneSync(t *testing.T) {
	d := &drive{rng: rand.New(rand.NewPCG(1, 1)), left: 1000, names: map[string]*ino{}, onDisk: map[string]*ino{}}
	f := &File{path: "dir/value.json", version: testVersion, sys: d}
	if err := f.Put([]byte(`1`)); err != nil {
		t.Fatal(err)
	}
	is := d.names[f.path]
	takes := func(what string, n int, do func() error) {
		t.Helper()
		before := [2]int{d.writes, d.syncs}
		if err := do(); err != nil || d.writes-before[0] != n || d.syncs-before[1] != n || d.names[f.path] != is {
			t.Errorf("%s took %d writes and %d syncs, want %d, of another file %v: %v", what, d.writes-before[0], d.syncs-before[1], n, d.names[f.path] != is, err)
		}
	}
	takes("a change", 1, func() error { return f.Put([]byte(`2`)) })
	takes("the other half", 1, f.Finish)
	takes("the other half, again", 0, f.Finish)
	takes("a change", 1, func() error { return f.Put([]byte(`3`)) })
	takes("a change that comes at once", 1, func() error { return f.Put([]byte(`4`)) })
}

// What a write or a sync that failed has left of a file nobody knows, so that the next change makes another one.
func TestChangeAfterAnError(t *testing.T) {
	for _, where := range []string{"Put", "Finish"} {
		d := &drive{rng: rand.New(rand.NewPCG(1, 1)), left: 1000, names: map[string]*ino{}, onDisk: map[string]*ino{}}
		f := &File{path: "dir/value.json", version: testVersion, sys: d}
		if err := errors.Join(f.Put([]byte(`1`)), f.Put([]byte(`2`))); err != nil {
			t.Fatal(err)
		}
		was := d.names[f.path]
		if where == "Put" {
			if err := f.Finish(); err != nil {
				t.Fatal(err)
			}
		}
		d.fails = 1
		if where == "Finish" {
			if err := f.Finish(); !errors.Is(err, errDisk) {
				t.Error(err)
			}
		}
		for range 2 {
			if err := f.Put([]byte(`3`)); !errors.Is(err, errDisk) {
				t.Error(err)
			}
		}
		d.fails = 0
		if err := errors.Join(f.Finish(), f.Put([]byte(`4`))); err != nil {
			t.Error(err)
		}
		is := d.names[f.path]
		if got, err := read(bytes.NewReader(is.disk), int64(len(is.disk)), testVersion); err != nil || string(got) != `4` || is == was {
			t.Errorf("after an error of %s: %s, %v, in the same file %v", where, got, err, is == was)
		}
	}
}

// A Finish makes up for a Put or a Finish that failed, in a new file of the last value that was Put; after Close it makes none.
func TestFinishAfterAnError(t *testing.T) {
	for _, where := range []string{"Put", "Finish"} {
		d := &drive{rng: rand.New(rand.NewPCG(1, 1)), left: 1000, names: map[string]*ino{}, onDisk: map[string]*ino{}}
		f := &File{path: "dir/value.json", version: testVersion, sys: d}
		if err := errors.Join(f.Finish(), f.Put([]byte(`1`)), f.Put([]byte(`2`))); err != nil {
			t.Fatal(err)
		}
		was := d.names[f.path]
		d.fails = 1
		for range 2 {
			err := f.Finish()
			if where == "Put" {
				err = f.Put([]byte(`3`))
			}
			if !errors.Is(err, errDisk) {
				t.Error(err)
			}
		}
		d.fails = 0
		if err := f.Finish(); err != nil {
			t.Error(err)
		}
		is := d.names[f.path]
		if want := encode(testVersion, 0, copies, block, 1, []byte(`2`)); is == was || !bytes.Equal(is.disk, want) {
			t.Errorf("after an error of %s: in the same file %v: %s", where, is == was, bytes.ReplaceAll(is.disk, []byte("  "), nil))
		}
		if err := errors.Join(f.Put([]byte(`4`)), f.Close(), f.Finish()); err != nil || d.names[f.path] != is {
			t.Errorf("after Close: another file %v, %v", d.names[f.path] != is, err)
		}
	}
}

// What cannot be read is not known to be what was written.
func TestChangeOfAFileThatIsNotRead(t *testing.T) {
	for _, finish := range []bool{false, true} {
		d := &drive{rng: rand.New(rand.NewPCG(1, 1)), left: 1000, names: map[string]*ino{}, onDisk: map[string]*ino{}}
		f := &File{path: "dir/value.json", version: testVersion, sys: d}
		if err := errors.Join(f.Put([]byte(`1`)), f.Put([]byte(`2`))); err != nil {
			t.Fatal(err)
		}
		was := d.names[f.path]
		d.unread = 1
		change := f.Finish
		if !finish {
			change = func() error { return f.Put([]byte(`3`)) }
		}
		if err := change(); err != nil || d.names[f.path] == was {
			t.Errorf("Finish %v: in the same file %v, %v", finish, d.names[f.path] == was, err)
		}
	}
}
