#!/bin/sh
# Create the databases of Prefect and MLflow (runs and accounts), with one owner role per program. PostgreSQL's image runs
# this script once, if its volume is empty.
set -eu
psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set=prefect="$PREFECT_DATABASE_PASSWORD" --set=mlflow="$MLFLOW_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_accounts OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_accounts FROM PUBLIC;
SQL
