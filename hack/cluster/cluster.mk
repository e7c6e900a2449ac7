##@ Local cluster: a real Kubernetes on this machine (CLUSTER=current: the current kubeconfig context instead)

.PHONY: cluster-up
cluster-up: ## bring the local cluster up; repairs a broken one
	@hack/cluster/up

.PHONY: cluster-down
cluster-down: ## take the local cluster down and leave nothing behind
	@hack/cluster/down

.PHONY: cluster-status
cluster-status: ## show what of the local cluster runs
	@hack/cluster/status

.PHONY: cluster-kubectl
cluster-kubectl: ## run kubectl against it: make cluster-kubectl ARGS="get pods -A"
	@hack/cluster/kubectl $(ARGS)

.PHONY: cluster-tools
cluster-tools: ## build the cluster's programs into the cache folder (about 10 min, once)
	@hack/cluster/tools/build >/dev/null

.PHONY: cluster-smoke
cluster-smoke: ## try pods with sidecars, logs, exec and scaling on it
	@hack/cluster/smoke
