package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// maxLine bounds one line that [Decode] takes, in bytes: a snapshot line of a watch is the longest.
const maxLine = 16 << 20

// line is one line of the file. One field is set.
type line struct {
	Setup  *Setup     `json:"setup,omitempty"`
	Op     *Op        `json:"op,omitempty"`
	Seen   *Seen      `json:"seen,omitempty"`
	Fault  *Fault     `json:"fault,omitempty"`
	Sample *Sample    `json:"sample,omitempty"`
	Write  *writes.Op `json:"write,omitempty"`
	Dump   *Dump      `json:"dump,omitempty"`
}

// Log records a history, in memory and as JSON lines. It is safe for use by
// many goroutines.
type Log struct {
	start time.Time

	mu   sync.Mutex // guards the rest
	run  Run
	file *os.File
	out  *bufio.Writer
	err  error // the first one of writing
}

// Create returns a log that writes to a new file. Its clock starts now.
func Create(name string, s Setup) (*Log, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	l := &Log{start: time.Now(), file: f, out: bufio.NewWriterSize(f, 1<<20)}
	s.Started = l.start.Round(0)
	l.add(line{Setup: &s})
	return l, nil
}

// Now is the run's clock: time since the log was created, which never steps.
func (l *Log) Now() time.Duration { return time.Since(l.start) }

// Op records an operation and returns it with its number.
func (l *Log) Op(op Op) Op {
	l.add(line{Op: &op})
	return op
}

// Watch records a line of a server's watch.
func (l *Log) Watch(s Seen) { l.add(line{Seen: &s}) }

// Fault records a fault that is over.
func (l *Log) Fault(f Fault) { l.add(line{Fault: &f}) }

// Sample records how a server described the cluster.
func (l *Log) Sample(s Sample) { l.add(line{Sample: &s}) }

// Write records an attempt to write to a data node.
func (l *Log) Write(op writes.Op) { l.add(line{Write: &op}) }

// Dump records what a node has at the end.
func (l *Log) Dump(d Dump) { l.add(line{Dump: &d}) }

func (l *Log) add(ln line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln.Op != nil {
		ln.Op.N = len(l.run.Ops) + 1
	}
	l.run.take(ln)
	data, err := json.Marshal(ln)
	if err == nil {
		_, err = l.out.Write(append(data, '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

func (r *Run) take(ln line) {
	switch {
	case ln.Setup != nil:
		r.Setup = *ln.Setup
	case ln.Op != nil:
		r.Ops = append(r.Ops, *ln.Op)
	case ln.Seen != nil:
		r.Seen = append(r.Seen, *ln.Seen)
	case ln.Fault != nil:
		r.Faults = append(r.Faults, *ln.Fault)
	case ln.Sample != nil:
		r.Samples = append(r.Samples, *ln.Sample)
	case ln.Write != nil:
		r.Writes = append(r.Writes, *ln.Write)
	case ln.Dump != nil:
		r.Dumps = append(r.Dumps, *ln.Dump)
	}
}

// Run returns what was recorded so far.
func (l *Log) Run() *Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Run{Setup: l.run.Setup, Ops: slices.Clone(l.run.Ops), Seen: slices.Clone(l.run.Seen),
		Faults: slices.Clone(l.run.Faults), Samples: slices.Clone(l.run.Samples), Writes: slices.Clone(l.run.Writes), Dumps: slices.Clone(l.run.Dumps)}
}

// Close writes out what is buffered. It returns the first error of writing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.out.Flush(), l.file.Close())
}

// Decode reads a history that a [Log] wrote. A last line that was cut off, as by
// a run that was killed, is an error.
func Decode(r io.Reader) (*Run, error) {
	run := &Run{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		var ln line
		if err := json.Unmarshal(lines.Bytes(), &ln); err != nil {
			return nil, fmt.Errorf("history line %d: %w", n, err)
		}
		run.take(ln)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return run, nil
}
