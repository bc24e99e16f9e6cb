package cable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// headTime bounds how long a server may take to say who it is.
const headTime = 5 * time.Second

// Junction stands in front of the port between servers of one of them. Each of the
// others has a cable of its own there: what a server says first names it. Close it
// when done.
type Junction struct {
	ln     net.Listener
	cables map[string]*Cable // by the server that dials
	all    sync.WaitGroup

	mu   sync.Mutex // guards the rest
	ends map[net.Conn]bool
	gone bool
}

// Join sets a junction in front of the server that listens at to, for the servers
// that may dial it.
func Join(to string, from []string) (*Junction, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	j := &Junction{ln: ln, cables: map[string]*Cable{}, ends: map[net.Conn]bool{}}
	for _, id := range from {
		j.cables[id] = lay(to)
	}
	j.all.Go(j.accept)
	return j, nil
}

// Addr is what the others dial, host:port.
func (j *Junction) Addr() string { return j.ln.Addr().String() }

// From is the cable of one server that dials, nil if there is none.
func (j *Junction) From(id string) *Cable { return j.cables[id] }

func (j *Junction) accept() {
	for {
		near, err := j.ln.Accept()
		if err != nil {
			return
		}
		if !j.keep(near) {
			return
		}
		j.all.Go(func() { j.sort(near) })
	}
}

func (j *Junction) keep(near net.Conn) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gone {
		_ = near.Close()
		return false
	}
	j.ends[near] = true
	return true
}

// sort hands a connection to the cable of who dialed.
func (j *Junction) sort(near net.Conn) {
	id, head, err := dialer(near)
	j.mu.Lock()
	delete(j.ends, near)
	j.mu.Unlock()
	if c := j.cables[id]; err == nil && c != nil {
		c.take(near, head)
		return
	}
	_ = near.Close()
}

// dialer reads who dialed, and all that it has read for that. What a server says
// first is in transport/peer/handshake.go: eight bytes, then its id, with the length
// in two bytes before it.
func dialer(conn net.Conn) (id string, head []byte, err error) {
	const fixed, lengthSize = 8, 2
	if err := conn.SetReadDeadline(time.Now().Add(headTime)); err != nil {
		return "", nil, err
	}
	head = make([]byte, fixed+lengthSize)
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", nil, fmt.Errorf("nobody said who dialed: %w", err)
	}
	name := make([]byte, binary.BigEndian.Uint16(head[fixed:]))
	if _, err := io.ReadFull(conn, name); err != nil {
		return "", nil, fmt.Errorf("nobody said who dialed: %w", err)
	}
	return string(name), append(head, name...), conn.SetReadDeadline(time.Time{})
}

// Close ends all connections.
func (j *Junction) Close() error {
	j.mu.Lock()
	j.gone = true
	for near := range j.ends {
		_ = near.Close()
	}
	j.mu.Unlock()
	err := j.ln.Close()
	j.all.Wait()
	for _, c := range j.cables {
		err = errors.Join(err, c.Close())
	}
	return err
}
