package inplace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testVersion = 2

func made(t *testing.T, bodies ...string) *File {
	t.Helper()
	f := New(filepath.Join(t.TempDir(), "value.json"), testVersion)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, body := range bodies {
		put(t, f, body)
	}
	return f
}

func put(t *testing.T, f *File, body string) {
	t.Helper()
	if err := f.Put([]byte(body)); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, f *File, body string) {
	t.Helper()
	if got, err := Read(f.path, testVersion); err != nil || string(got) != body {
		t.Fatalf("it holds %.60s (%v), want %.60s", got, err, body)
	}
}

func contents(t *testing.T, f *File) []byte {
	t.Helper()
	raw, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestFile(t *testing.T) {
	f := made(t)
	if _, err := Read(f.path, testVersion); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	long := `{"k":"` + strings.Repeat("v", 3*block) + `"}`
	for _, body := range []string{`{}`, `{"k":1}`, long, `null`, long + "  "} {
		put(t, f, body)
		holds(t, f, strings.TrimSpace(body))
		if err := f.Finish(); err != nil {
			t.Fatal(err)
		}
		holds(t, f, strings.TrimSpace(body))
	}
	if n := len(contents(t, made(t, `{}`))); n != copies*block {
		t.Errorf("a small one has %d bytes", n)
	}
	if left, err := filepath.Glob(f.path + "?*"); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if _, err := Read(f.path, testVersion+1); !errors.Is(err, ErrNoCopy) {
		t.Errorf("of another version: %v", err)
	}
}

// Who knows only the version reads the file as JSON, at any time.
func TestFileIsJSON(t *testing.T) {
	f := made(t, `{"k":1}`, `{"k":2}`)
	for range 2 {
		var is struct {
			Version int
			Copies  []record
		}
		if err := json.Unmarshal(contents(t, f), &is); err != nil || is.Version != testVersion || len(is.Copies) != copies {
			t.Errorf("%+v %v", is, err)
		}
		if err := f.Finish(); err != nil {
			t.Fatal(err)
		}
	}
}

// One damaged copy, wherever it is, never makes an older value the newest; all of them are no value.
func TestDamage(t *testing.T) {
	for _, finish := range []bool{false, true} {
		f := made(t, `{"k":1}`, `{"k":2}`)
		if finish {
			if err := f.Finish(); err != nil {
				t.Fatal(err)
			}
		}
		good := contents(t, f)
		size := len(good) / copies
		spoilt := func(at ...int) ([]byte, error) {
			raw := bytes.Clone(good)
			for _, at := range at {
				raw[at] ^= 4
			}
			return read(bytes.NewReader(raw), int64(len(raw)), testVersion)
		}
		for at := range good {
			if at%size > 300 && at%size < size-5 && at%97 > 0 {
				continue // spaces, most of them
			}
			if got, err := spoilt(at); err != nil || string(got) != `{"k":2}` {
				t.Fatalf("with byte %d spoilt it holds %s, %v", at, got, err)
			}
		}
		for whole := range copies {
			at := []int{5, size + 5, 2*size + 5, 3*size + 5}
			want := `{"k":2}`
			if !finish && whole >= copies/2 {
				want = `{"k":1}` // both copies of a half that may as well be torn
			}
			if got, err := spoilt(slices.Delete(at, whole, whole+1)...); err != nil || string(got) != want {
				t.Errorf("with copy %d alone it holds %s, %v", whole, got, err)
			}
		}
		if got, err := spoilt(5, size+5, 2*size+5, 3*size+5); !errors.Is(err, ErrNoCopy) {
			t.Errorf("%s, %v", got, err)
		}
		for _, n := range []int{0, block, len(good) - 1, len(good) - copies*block, len(good) - 4096} {
			if got, err := read(bytes.NewReader(good[:n]), int64(n), testVersion); !errors.Is(err, ErrNoCopy) {
				t.Errorf("of %d bytes: %s, %v", n, got, err)
			}
		}
	}
}

// A copy that cannot be read is a damaged one. Two of a half may be the newest, and the other half is not taken for it.
func TestUnreadableCopy(t *testing.T) {
	f := made(t, `{"k":1}`)
	good := contents(t, f)
	size := int64(len(good))
	for i := range int64(copies) {
		got, err := read(badPlaces{bytes.NewReader(good), []int64{i * size / copies}}, size, testVersion)
		if err != nil || string(got) != `{"k":1}` {
			t.Errorf("without copy %d: %s, %v", i, got, err)
		}
	}
	f = made(t, `{"k":1}`, `{"k":2}`) // the second is in the first half
	good = contents(t, f)
	torn := bytes.Clone(good) // one copy, or both
	torn[5] ^= 4
	for _, is := range []struct {
		file   []byte
		unread []int64 // in quarters
		want   string  // empty is the error
	}{
		{good, []int64{0, 1, 2, 3}, ""},
		{good, []int64{0, 1}, ""},
		{good, []int64{2, 3}, ""},
		{torn, []int64{1}, ""},
		{good, []int64{0, 2}, `{"k":2}`},
		{torn, []int64{0}, `{"k":2}`},
		{torn, []int64{2}, `{"k":2}`},
	} {
		var at []int64
		for _, quarter := range is.unread {
			at = append(at, quarter*size/copies)
		}
		got, err := read(badPlaces{bytes.NewReader(is.file), at}, size, testVersion)
		if string(got) != is.want || errors.Is(err, errBadPlace) != (is.want == "") {
			t.Errorf("without %v, of a torn one %v: %s, %v", is.unread, is.file[5] == torn[5], got, err)
		}
	}
}

var errBadPlace = errors.New("input/output error")

type badPlaces struct {
	*bytes.Reader
	at []int64
}

func (b badPlaces) ReadAt(p []byte, at int64) (int, error) {
	if slices.Contains(b.at, at) {
		return 0, errBadPlace
	}
	return b.Reader.ReadAt(p, at)
}

func TestCopiesThatContradict(t *testing.T) {
	raw := encode(testVersion, 0, copies, block, 7, []byte(`1`))
	copy(raw[block:], encode(testVersion, 1, 2, block, 7, []byte(`2`)))
	if got, err := read(bytes.NewReader(raw), int64(len(raw)), testVersion); err == nil || !strings.Contains(err.Error(), "number 7, and differ") {
		t.Errorf("%s, %v", got, err)
	}
}

// What was moved away under the process, or put in place of it, is not written to any more.
func TestFileIsReplacedFromOutside(t *testing.T) {
	f := made(t, `1`)
	for i, change := range []func() error{
		func() error { return os.Remove(f.path) },
		func() error { return os.Rename(f.path, f.path+".away") },
		func() error {
			raw, err := os.ReadFile(f.path)
			return errors.Join(err, os.Remove(f.path), os.WriteFile(f.path+".other", raw, 0o600), os.Rename(f.path+".other", f.path))
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprint(10 + i)
		put(t, f, body)
		holds(t, f, body)
	}
}

// A file that was written over in place is not changed: its numbers are not those that the process has. Nor is one whose other
// half alone was, though the value is to stay.
func TestFileIsCopiedOver(t *testing.T) {
	old := made(t, `"old"`, `"older"`, `"sealed"`, `"promoted, and rolled back"`)
	long := made(t, `"`+strings.Repeat("x", 3*block)+`"`)
	const value = `"sealed"`
	for what, backup := range map[string][]byte{
		"an older file":   contents(t, old),
		"a longer file":   contents(t, long),
		"nothing":         nil,
		"half of a file":  contents(t, old)[:2*block],
		"a file and more": append(contents(t, old), ' '),
	} {
		for _, change := range []string{"another value", "the same value", "Finish"} {
			f := made(t, `"none"`, `"new"`, value) // in the second half, as the older file has it, and under the same number
			if err := os.WriteFile(f.path, backup, 0o600); err != nil {
				t.Fatal(err)
			}
			want := value
			switch change {
			case "another value":
				want = `"promoted"`
				put(t, f, want)
			case "the same value":
				put(t, f, want)
			case "Finish":
				if err := f.Finish(); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := Read(f.path, testVersion); err != nil || string(got) != want {
				t.Errorf("after %s came over it and then %s: it holds %.60s (%v), want %s", what, change, got, err, want)
			}
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, n := range []int{300, 19_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := New(filepath.Join(b.TempDir(), "value.json"), testVersion)
			bodies := [][]byte{[]byte(`"` + strings.Repeat("a", n) + `"`), []byte(`"` + strings.Repeat("b", n) + `"`)}
			if err := f.Put(bodies[0]); err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				i++
				if err := f.Put(bodies[i%2]); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := f.Finish(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
