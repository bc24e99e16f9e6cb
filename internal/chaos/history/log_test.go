package history

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// TestDecodeReadsWhatWasLogged writes a history with everything in it and reads
// it again.
func TestDecodeReadsWhatWasLogged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.jsonl")
	l, err := Create(name, Setup{Seed: 7, Duration: time.Minute, Servers: []string{"s1", "s2"}, Target: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(name, Setup{}); err == nil {
		t.Error("a second log was put over the first one")
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { l.Op(Op{Kind: Declare, Prefix: "p:", Call: l.Now(), Outcome: Unknown}) })
	}
	all.Wait()
	op := l.Op(Op{Client: "c1", Server: "s1", Kind: Read, Prefix: "p:", Outcome: OK, Got: Got{Seen: 3, Scope: &api.Scope{Prefix: "p:", Epoch: 2}}})
	if op.N != 11 {
		t.Errorf("the 11th operation has the number %d", op.N)
	}
	l.Watch(Seen{Server: "s1", Item: api.WatchItem{Type: "change", Index: 3, Changes: []api.Change{{Cause: "declare", Op: "put"}}}})
	l.Fault(Fault{Name: Kill, Servers: []string{"s1"}, Before: map[string]Machine{"s1": {State: "running", PID: 4, Peer: "10.0.0.1"}}})
	l.Write(writes.Op{Scope: "d:", Key: "d:1", Outcome: writes.Unknown})
	l.Dump(Dump{Node: "d1", Prefix: "d:", Owner: true, Records: []writes.Record{{Key: "d:1", Value: "v", Epoch: 3}}})
	l.Sample(Sample{Server: "s2", Final: true, Cluster: api.Cluster{Index: 3}})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	want := l.Run()
	if got.Setup.Started.Equal(want.Setup.Started) {
		got.Setup.Started = want.Setup.Started // the same instant, in another zone
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v\nof %+v", got, want)
	}
}

func TestDecodeRefusesWhatIsCutOff(t *testing.T) {
	if _, err := Decode(strings.NewReader("{\"op\":{\"n\":1}}\n{\"op\":{\"n\"")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a history that was cut off gives %v", err)
	}
}
