package config

import (
	"encoding/json"
	"reflect"
)

// Gateway is a public entry for services.
type Gateway struct {
	Type         string        `json:"type"`
	Name         *string       `json:"name"`
	Default      *bool         `json:"default"`
	Backend      string        `json:"backend" cfg:"req,enum=amddevcloud|aws|azure|cloudrift|crusoe|cudo|datacrunch|daytona|digitalocean|dstack|gcp|hotaisle|jarvislabs|kubernetes|lambda|lium|remote|nebius|oci|runpod|seeweb|tensordock|vastai|verda|vultr|slurm"`
	Region       string        `json:"region" cfg:"req"`
	InstanceType *string       `json:"instance_type" cfg:"minlen=1"`
	Domain       *string       `json:"domain"`
	PublicIP     bool          `json:"public_ip"`
	LoadBalancer *LoadBalancer `json:"load_balancer"`
	Certificate  *Certificate  `json:"certificate"`
	Replicas     *int          `json:"replicas" cfg:"min=1"`
	Tags         Tags          `json:"tags" cfg:"opt"`
}

func (g *Gateway) setDefaults() {
	g.Type, g.PublicIP, g.Certificate = TypeGateway, true, &Certificate{Type: "lets-encrypt"}
}

// UnmarshalJSON reads a stored gateway.
func (g *Gateway) UnmarshalJSON(data []byte) error { return decodeStored(data, g) }

func (g *Gateway) decodeNode(d *decoder, n *node, loc []any) {
	type plain Gateway
	g.setDefaults()
	if r := n.get("router"); r != nil && r.kind == nullKind { // sent by 0.20.27 to 0.20.29
		n = n.clone()
		n.drop("router")
	}
	d.structure(n, loc, reflect.ValueOf((*plain)(g)).Elem())
}

// LoadBalancer in front of the gateway's replicas.
type LoadBalancer struct {
	Type string `json:"type" cfg:"req,enum=alb"`
}

// Certificate says where a gateway's certificates come from.
type Certificate struct{ Type, ARN, Name string }

// The objects that a certificate is written as.
type (
	letsEncrypt struct {
		Type string `json:"type" cfg:"req,enum=lets-encrypt"`
	}
	acmCertificate struct {
		Type string `json:"type" cfg:"req,enum=acm"`
		ARN  string `json:"arn" cfg:"req"`
	}
	gcpCertificate struct {
		Type string `json:"type" cfg:"req,enum=gcp-cm"`
		Name string `json:"name" cfg:"req"`
	}
)

// MarshalJSON writes the fields of the certificate's type.
func (c Certificate) MarshalJSON() ([]byte, error) {
	m := map[string]string{"type": c.Type}
	switch c.Type {
	case "acm":
		m["arn"] = c.ARN
	case "gcp-cm":
		m["name"] = c.Name
	}
	return json.Marshal(m)
}

func (c *Certificate) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", "lets-encrypt", "acm", "gcp-cm")
	if !ok {
		return
	}
	*c = Certificate{Type: typ}
	loc = at(loc, typ)
	switch typ {
	case "acm":
		var p acmCertificate
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		c.ARN = p.ARN
	case "gcp-cm":
		var p gcpCertificate
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		c.Name = p.Name
	default:
		var p letsEncrypt
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
	}
}
