package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/scope-registry/scope-registry/client"
)

// The metrics of moves: one that is a source's and one that is a target's, of a scope whose prefix is no text.
func TestGateMoveMetrics(t *testing.T) {
	g := gateMoves{"n1", func() []client.MoveStatus {
		return []client.MoveStatus{
			{Move: "m1", Prefix: "orders:", From: "n1", To: "n2", Phase: "copying", Keys: 70, Bytes: 7000, KeysLeft: 30, BytesLeft: 3000, LeftKnown: true},
			{Move: "m2", Prefix: "a\xff\"", From: "n2", To: "n1", Phase: "shipped", Keys: 5, Bytes: 50},
		}
	}}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(g)
	const want = `# HELP scope_registry_gate_move_bytes Bytes of these records.
# TYPE scope_registry_gate_move_bytes gauge
scope_registry_gate_move_bytes{role="source",scope="orders:"} 7000
scope_registry_gate_move_bytes{role="target",scope="a\\xff\""} 50
# HELP scope_registry_gate_move_keys Records of a running move that were sent (role source) or staged (role target) by this process; one that changes meanwhile counts again.
# TYPE scope_registry_gate_move_keys gauge
scope_registry_gate_move_keys{role="source",scope="orders:"} 70
scope_registry_gate_move_keys{role="target",scope="a\\xff\""} 5
# HELP scope_registry_gate_move_left_bytes Bytes of these records.
# TYPE scope_registry_gate_move_left_bytes gauge
scope_registry_gate_move_left_bytes{role="source",scope="orders:"} 3000
# HELP scope_registry_gate_move_left_keys Records that the source of a running move has still to look at, about, as it has told the registry last.
# TYPE scope_registry_gate_move_left_keys gauge
scope_registry_gate_move_left_keys{role="source",scope="orders:"} 30
# HELP scope_registry_gate_move_phase 1 for the phase of each running move from or to this node.
# TYPE scope_registry_gate_move_phase gauge
scope_registry_gate_move_phase{phase="copying",role="source",scope="orders:"} 1
scope_registry_gate_move_phase{phase="shipped",role="target",scope="a\\xff\""} 1
`
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if got := rec.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if problems, err := promlint.New(strings.NewReader(want)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %+v", err, problems)
	}
}
