// Package inventory knows which nodes are alive and which facts they report, from messages on the bus alone.
//
// A node runs an Announcer. It sends heartbeats at the pace that the controller asks for, and one at once when its
// content changes. A heartbeat has only a digest of the facts, which are sent when they change or are requested.
//
// The controller runs Listen. A heartbeat that repeats the node's last one byte for byte renews the node's lease and
// goes no further. Everything else becomes a Received, and the owner of the Inventory passes it to Apply, which returns
// the nodes that changed. Any goroutine may read a Snapshot.
//
// Silence proves that a node is dead only if the listener could have received its heartbeats. So the listener sends
// itself a message four times a second, the canary. Canary time is the listener's time of the last canary that came
// back: every message sent before that has been received. Nodes become suspect and gone by canary time alone. When
// messages may have been missed (Received.Missed), all leases begin again.
package inventory
