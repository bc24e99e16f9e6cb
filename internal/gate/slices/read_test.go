package slices

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

// lazyStore answers a question only when nobody has another one, so that all that may be asked for at one time is.
type lazyStore struct {
	sizes map[string]int64 // of keys, which are no strings

	mu    sync.Mutex // guards what follows
	asked [][]string
	ahead int64 // of the values among them
	most  int64
	alone map[string]bool // keys of which no other value was asked for together with theirs
	count map[string]int  // of commands
}

// hear takes commands until the connection ends.
func (s *lazyStore) hear(in *bufio.Reader, out io.Writer) {
	for {
		args, err := readArgs(in)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, args)
		s.count[args[0]]++
		if args[0] == "DUMP" {
			s.alone[args[1]] = s.ahead == 0
			s.ahead += s.sizes[args[1]]
			s.most = max(s.most, s.ahead)
		}
		s.mu.Unlock()
	}
}

func readArgs(in *bufio.Reader) (args []string, err error) {
	number := func() (n int) {
		line, failed := in.ReadString('\n')
		if err = failed; err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(line[1:]))
		}
		return n
	}
	for range number() {
		text := make([]byte, number()+2)
		if err == nil {
			_, err = io.ReadFull(in, text)
		}
		if err != nil {
			return nil, err
		}
		args = append(args, string(text[:len(text)-2]))
	}
	return args, err
}

// answer gives the answers until the reader has what it wants.
func (s *lazyStore) answer(out io.Writer) {
	for {
		synctest.Wait()
		s.mu.Lock()
		if len(s.asked) == 0 {
			s.mu.Unlock()
			return
		}
		args := s.asked[0]
		s.asked = s.asked[1:]
		text := ":-1\r\n"
		switch args[0] {
		case "MEMORY":
			text = fmt.Sprintf(":%d\r\n", s.sizes[args[2]])
		case "STRLEN":
			text = "-WRONGTYPE\r\n"
		case "DUMP":
			s.ahead -= s.sizes[args[1]]
			text = "$1\r\nx\r\n"
		}
		s.mu.Unlock()
		if _, err := io.WriteString(out, text); err != nil {
			return
		}
	}
}

// TestReadingAsksForLittle: whatever the order in which keys come, the store is asked for no more at one time than it may have
// to hold; of keys that are known to be short the size is not asked for.
func TestReadingAsksForLittle(t *testing.T) {
	for _, known := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &lazyStore{sizes: map[string]int64{}, alone: map[string]bool{}, count: map[string]int{}}
			var keys []string
			for i := range 1200 {
				k, size := fmt.Sprint("app:", i), int64(100)
				switch {
				case i >= 600 && i < 640:
					size = 1 << 20
				case i%500 == 7:
					size = 100 << 20
				}
				s.sizes[k] = size
				keys = append(keys, k)
			}
			ours, theirs := net.Pipe()
			var hearing sync.WaitGroup
			hearing.Go(func() { s.hear(bufio.NewReader(theirs), theirs) })
			var got []string
			r := &reading{limits: usualLimits, log: slog.New(slog.DiscardHandler), pending: slices.Clone(keys), send: func(x client.Record) error {
				got = append(got, string(x.Key))
				return nil
			}}
			if known {
				r.short = func(key string) bool { return s.sizes[key] == 100 }
			}
			var reading sync.WaitGroup
			reading.Go(func() {
				if err := r.run(t.Context(), newConn(&upstream.Conn{Conn: ours})); err != nil {
					t.Error(err)
				}
			})
			s.answer(theirs)
			reading.Wait()
			ours.Close()
			hearing.Wait()
			slices.Sort(got)
			slices.Sort(keys)
			if !slices.Equal(got, keys) {
				t.Errorf("%d of %d keys came", len(got), len(keys))
			}
			if s.most != 100<<20 {
				t.Errorf("%d bytes were asked for at one time", s.most)
			}
			for k, size := range s.sizes {
				if size > maxAhead && !s.alone[k] {
					t.Errorf("%s was asked for beside others", k)
				}
			}
			if want := map[bool]int{false: 1200, true: 43}[known]; s.count["MEMORY"] != want || s.count["STRLEN"] != 3 {
				t.Errorf("asked %v", s.count)
			}
		})
	}
}
