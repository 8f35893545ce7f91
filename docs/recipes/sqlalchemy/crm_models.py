"""The tables of a crm workspace as SQLAlchemy classes, read from the database."""
from types import SimpleNamespace

from sqlalchemy import MetaData
from sqlalchemy.ext.automap import automap_base


def crm_models(engine, workspace='sales'):
    """Classes by the names of the tables, your own columns and tables included."""
    metadata = MetaData(schema=workspace)
    metadata.reflect(engine)
    base = automap_base(metadata=metadata)
    for table in metadata.tables.values():
        # The database counts versions; SQLAlchemy sends the next number and finds out that a row moved on.
        if 'row_version' in table.columns and len(table.primary_key) == 1:
            type(str(table.name), (base,), {
                '__table__': table,
                '__mapper_args__': {'version_id_col': table.columns.row_version, 'eager_defaults': True}})

    # A column such as opportunity.stage has the name of the table it refers to: relationships get names of their own.
    def one(base, local, referred, constraint):
        return '_'.join(column.name.removesuffix('_id') for column in constraint.columns) + '_record'

    def many(base, local, referred, constraint):
        return f'{referred.__name__}_by_' + '_'.join(column.name for column in constraint.columns)
    base.prepare(name_for_scalar_relationship=one, name_for_collection_relationship=many)
    return SimpleNamespace(**{mapper.class_.__name__: mapper.class_ for mapper in base.registry.mappers})
