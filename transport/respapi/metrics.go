package respapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/api"
)

// resultOK is the result of a command that was answered; verdicts are answers.
// That of any other is its error's code.
const resultOK = "ok"

// Metrics counts commands, connections, subscribers and refusals. It is a
// prometheus.Collector.
type Metrics struct {
	commands    *prometheus.CounterVec
	refused     *prometheus.CounterVec
	connections prometheus.Gauge
	subscribers prometheus.Gauge
}

// Collector makes the metrics of one server: register it, and give it to Config
// as Metrics.
func Collector() *Metrics {
	return &Metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scope_registry_resp_commands_total",
			Help: "Commands of the Redis protocol by name, \"unknown\" if there is none such, and result: ok or an error's code."},
			[]string{"command", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scope_registry_resp_refused_total",
			Help: "Connections of the Redis protocol refused or closed: limit, share, evicted, tls, protocol, size, unread, behind, revoked."},
			[]string{"reason"}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "scope_registry_resp_connections",
			Help: "Open connections of the Redis protocol."}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "scope_registry_resp_subscribers",
			Help: "Connections subscribed to scope.events."}),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.commands.Describe(ch)
	m.refused.Describe(ch)
	m.connections.Describe(ch)
	m.subscribers.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.commands.Collect(ch)
	m.refused.Collect(ch)
	m.connections.Collect(ch)
	m.subscribers.Collect(ch)
}

// failed counts a command that ended in an error. Only known names are labels:
// a client must not be able to make up series.
func (m *Metrics) failed(cmd *command, code api.Code) {
	name := "unknown"
	if cmd != nil {
		name = cmd.name
	}
	m.commands.WithLabelValues(name, string(code)).Inc()
}
