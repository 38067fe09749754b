"""The system under test: a compact Dynamo (DeCandia et al., SOSP 2007) that runs in a simulator and on real nodes alike."""
